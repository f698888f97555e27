"""Reports of bars as lines, and what is none."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.wire.barlines import BAR, NUMBER_MAX, PAYLOAD_BYTES_MAX, TEXT_CHARS_MAX, Report, decode, encode

numbers = st.integers(-(2**53), 2**53) | st.floats(-NUMBER_MAX, NUMBER_MAX)
reports = st.builds(
    Report,
    bar=st.just("ab12"),
    reporter=st.just("ab12"),
    n=numbers,
    total=st.none() | numbers,
    desc=st.text(),
    unit=st.text(),
    postfix=st.text(),
    leave=st.booleans(),
    name=st.text(),
    initial=numbers,
    age_s=numbers,
)


@given(reports)
def test_a_report_comes_as_it_was(report):
    line = encode(report)
    assert line.isascii()
    assert "\n" not in line
    assert "\x00" not in line.removeprefix(BAR)
    assert len(line) - len(BAR) <= PAYLOAD_BYTES_MAX
    cut = [part[:TEXT_CHARS_MAX] if isinstance(part, str) else part for part in report]
    assert decode(line) == Report(*cut)


def test_texts_of_wide_characters_fit():
    text = "\U0001f600" * 1000
    assert (
        len(encode(Report("a" * 16, "b" * 16, 0.1, 1e300, text, "unit", "", "open", True, "name")))
        < PAYLOAD_BYTES_MAX
    )


HUGE = '["a","a",1' + "0" * 400 + "]"


@given(
    st.text()
    | st.sampled_from(
        ["[]", "[1,2,3]", '["a","a",NaN]', '["a","a","b"]', '{"a":1}', "[" * 9999, '["a","a",1,2,3]', HUGE]
    )
)
def test_what_is_no_report(text):
    found = decode(BAR + text)
    assert found is None or isinstance(found, Report)
    assert decode(BAR + '["a","a",NaN]') is None
    assert decode(BAR + "[1,2,3]") is None
    assert decode(BAR + HUGE) is None
