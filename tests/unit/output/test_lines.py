"""A worker's bytes become lines of tasks, however they were cut into reads."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.wire.barlines import Report, encode
from shoald.markers import MARK, NAME_BYTES_MAX, encode_marker
from shoald.node.lines import StreamLines

LINE_MAX = 16


def parse(chunks, line_max=LINE_MAX):
    stream = StreamLines(line_max)
    lines = [line for chunk in chunks for line in stream.feed(chunk)]
    return lines + stream.flush()


def cut(data, places):
    ends = sorted({min(place, len(data)) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def test_lines_belong_to_the_task_of_the_last_marker():
    data = b"start\n" + encode_marker("f") + b"one\ntwo\n" + encode_marker("g") + b"three\n"
    assert parse([data]) == [("", "start"), ("f", "one"), ("f", "two"), ("g", "three")]


def test_another_task_ends_a_line():
    data = encode_marker("f") + b"no end" + encode_marker("g") + b"next\n"
    assert parse([data]) == [("f", "no end"), ("g", "next")]


def test_a_partial_line_waits_for_its_end():
    stream = StreamLines(LINE_MAX)
    assert stream.feed(b"ab") == []
    assert stream.feed(b"cd") == []
    assert stream.feed(b"\nx") == [("", "abcd")]
    assert stream.flush() == [("", "x")]
    assert stream.flush() == []


def test_ends_of_lines():
    assert parse([b"a\r\nb\n\nc\r\rd\r\n\r\n"]) == [("", text) for text in ["a", "b", "", "c", "d", ""]]
    # A progress bar: each state is a line, seen when the next one begins.
    stream = StreamLines(LINE_MAX)
    assert stream.feed(b"\r 10%") == []
    assert stream.feed(b"\r 20%") == [("", " 10%")]
    assert stream.feed(b"\r\n") == [("", " 20%")]


def test_long_lines_are_cut_between_characters():
    stream = StreamLines(4)
    assert stream.feed(b"abcd") == []
    assert stream.feed(b"e") == [("", "abcd")]
    assert stream.feed(b"\n") == [("", "e")]
    assert parse(["aéééé\n".encode()], 4) == [("", "aé"), ("", "éé"), ("", "é")]
    assert parse([b"\x80" * 9 + b"\n"], 4) == [("", r"\x80" * 4), ("", r"\x80" * 4), ("", r"\x80")]


def test_binary_garbage_is_shown_escaped():
    assert parse([b"\xff\xfe ok\n"], 100) == [("", r"\xff\xfe ok")]


def test_what_only_looks_like_a_marker_is_text():
    assert parse([b"\x00shoal\n"], 100) == [("", "\x00shoal")]
    long_name = MARK + b"x" * (NAME_BYTES_MAX + 1) + b"\n"
    assert parse([long_name], 10000) == [("", long_name[:-1].decode())]
    assert parse([MARK + encode_marker("f") + b"a\n"], 100) == [("", MARK.decode()), ("f", "a")]
    assert parse([MARK + b"never ended"], 100) == [("", (MARK + b"never ended").decode())]


def test_names_of_tasks_are_made_to_fit():
    (begin, line) = parse([encode_marker("a\nb\x00c") + b"x\n"])[0]
    assert (begin, line) == ("a b c", "x")
    assert parse([encode_marker("é" * 1000) + b"x\n"])[0][1] == "x"
    assert parse([encode_marker("\udc80") + b"x\n"])[0] == (r"\udc80", "x")


def test_garbage_is_kept_within_bounds():
    stream = StreamLines(LINE_MAX)
    for _ in range(1000):
        stream.feed(b"\x00" * 7 + MARK)
    assert len(stream._partial) <= LINE_MAX + 1
    assert len(stream._unread) <= len(MARK) + NAME_BYTES_MAX + 1


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"\n",
                b"\r",
                b"\r\n",
                b"\x00",
                MARK,
                MARK[:5],
                encode_marker("f"),
                encode_marker("g"),
                b"x" * 15,
            ]
        ),
        st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace")),
        st.binary(max_size=6),
        st.integers(NAME_BYTES_MAX - 2, NAME_BYTES_MAX + 2).map(lambda size: MARK + b"n" * size + b"\n"),
    ),
    max_size=12,
).map(b"".join)


@given(PIECES, st.lists(st.integers(0, 1200), max_size=8))
def test_cutting_into_reads_makes_no_difference(data, places):
    assert parse(cut(data, places)) == parse([data])


@given(PIECES)
def test_byte_by_byte_is_no_different(data):
    assert parse([data[index : index + 1] for index in range(len(data))]) == parse([data])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("fgh"), st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"))
        )
    )
)
def test_nothing_is_lost(wanted):
    data = b"".join(encode_marker(task) + text.encode() + b"\n" for task, text in wanted)
    assert parse([data], 10000) == wanted


BAR_LINE = encode(Report("b", "b", 1, 2))


def test_the_report_of_a_bar_does_not_end_the_line_that_it_is_in_the_middle_of():
    data = encode_marker("f") + b"one, " + BAR_LINE.encode() + b"\ntwo\n" + BAR_LINE.encode() + b"\n"
    assert parse([data]) == [("f", BAR_LINE), ("f", "one, two"), ("f", BAR_LINE)]


@given(
    st.lists(st.sampled_from([b"ab", b"\n", b"\r", b"\x00", encode_marker("f"), BAR_LINE.encode() + b"\n"])),
    st.data(),
)
def test_reports_arrive_whole_however_they_are_cut(parts, data):
    whole = b"".join(parts)
    places = data.draw(st.lists(st.integers(0, len(whole)), max_size=5))
    assert parse(cut(whole, places)) == parse([whole])
    assert sum(line == BAR_LINE for _, line in parse([whole])) <= parts.count(BAR_LINE.encode() + b"\n")
