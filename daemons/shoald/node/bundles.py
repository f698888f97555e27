"""The bundles of placement groups on one node, as resources of the ledger. Pure.

A bundle is taken out of what is free once and for all (`reserve`), and comes back as *derived* resources that only members of
the group can take: `CPU_group_0_<id>` for bundle 0, and `CPU_group_<id>` for any of them. A task in bundle 0 takes of
both, one in any bundle of the second: so neither counts on what the other has. A task that needs nothing takes a
little of the bundle itself, so that it runs where the bundle is.

Two phases: what is *prepared* is reserved, and nobody can use it; *committed*, it can be used. What is given back is free
again when the last lease on it has ended (`lease_ended`); until then it is *leaving*, and nobody new gets any.

Invariant: `ledger.reserved` is the sum of all bundles here, in whatever state; derived totals are those of committed ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoald.node.leases import Amounts, ResourceLedger

PREPARED, COMMITTED, LEAVING = "prepared", "committed", "leaving"
BUNDLE = "bundle"  # the resource that a member takes 1 of, and a bundle has BUNDLE_UNITS of
BUNDLE_UNITS = 10_000_000


def derived_name(name: str, group: bytes, index: int) -> str:
    """What a member of the group asks for instead of ``name``; index -1: from any bundle."""
    return f"{name}_group_{group.hex()}" if index < 0 else f"{name}_group_{index}_{group.hex()}"


def derived_amounts(amounts: Amounts, group: bytes, index: int, *, bare: bool = False) -> Amounts:
    """What a member takes that needs ``amounts``; ``bare``: without the little of the bundle itself."""
    wanted = amounts if bare else {**amounts, BUNDLE: 1}
    found = {derived_name(name, group, -1): amount for name, amount in wanted.items()}
    if index >= 0:
        found |= {derived_name(name, group, index): amount for name, amount in wanted.items()}
    return found


class Bundles:
    """The bundles of all groups here, as (group, index of the bundle).

    Args:
        ledger: of the node; changed by this.

    Attributes:
        states: (group, bundle) → PREPARED, COMMITTED or LEAVING.
    """

    def __init__(self, ledger: ResourceLedger) -> None:
        self._ledger = ledger
        self._amounts: dict[tuple[bytes, int], Amounts] = {}
        self.states: dict[tuple[bytes, int], str] = {}

    def reserve(self, group: bytes, bundles: Mapping[int, Amounts]) -> bool:
        """Take all of these or none; whether they fit. Those that are here already count as reserved."""
        ledger = self._ledger
        missing = {index: amounts for index, amounts in bundles.items() if (group, index) not in self.states}
        if any(self.states.get((group, index)) == LEAVING for index in bundles):
            return False
        needed: Amounts = {}
        for amounts in missing.values():
            for name, amount in amounts.items():
                needed[name] = needed.get(name, 0) + amount
        if not ledger.fits(needed):
            return False
        ledger.take(needed)
        _add(ledger.reserved, needed, 1)
        for index, amounts in missing.items():
            self._amounts[group, index] = dict(amounts)
            self.states[group, index] = PREPARED
        return True

    def commit(self, group: bytes, indices: list[int]) -> None:
        """Members may use these bundles from now on; nothing for those that are committed, or not here."""
        ledger = self._ledger
        for index in indices:
            if self.states.get((group, index)) == PREPARED:
                self.states[group, index] = COMMITTED
                _add(ledger.derived, self._derived(group, index), 1)
                _add(ledger.free, self._derived(group, index), 1)

    def give_back(self, group: bytes, indices: list[int]) -> None:
        """Nobody new can use these bundles; `settle` frees them when nobody uses them any more."""
        ledger = self._ledger
        for index in indices:
            state = self.states.get((group, index))
            if state == COMMITTED:
                _add(ledger.derived, self._derived(group, index), -1)
                _add(ledger.free, self._derived(group, index), -1)
            if state == PREPARED:
                self._free((group, index))
            elif state is not None:
                self.states[group, index] = LEAVING

    def settle(self, group: bytes, in_use: bool) -> bool:
        """Free the leaving bundles of a group unless leases on the group are left; whether any was freed."""
        leaving = [key for key, state in self.states.items() if key[0] == group and state == LEAVING]
        if in_use or not leaving:
            return False
        ledger = self._ledger
        for key in leaving:
            self._free(key)
        if not any(key[0] == group for key in self.states):
            for name in [
                name for name in ledger.free if name.endswith(group.hex()) and not ledger.free[name]
            ]:
                del ledger.free[name]
        for name in [name for name, amount in ledger.derived.items() if not amount]:
            del ledger.derived[name]
        return True

    def _free(self, key: tuple[bytes, int]) -> None:
        amounts = self._amounts.pop(key)
        del self.states[key]
        self._ledger.give(amounts)
        _add(self._ledger.reserved, amounts, -1)

    def here(self, group: bytes) -> dict[int, str]:
        """The group's bundles on this node: index → state."""
        return {index: state for (owner, index), state in self.states.items() if owner == group}

    def amounts(self, group: bytes, index: int) -> Amounts:
        """What a bundle here has."""
        return self._amounts[group, index]

    def _derived(self, group: bytes, index: int) -> Amounts:
        amounts = {**self._amounts[group, index], BUNDLE: BUNDLE_UNITS}
        found = {derived_name(name, group, -1): amount for name, amount in amounts.items()}
        found |= {derived_name(name, group, index): amount for name, amount in amounts.items()}
        return found

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        ledger = self._ledger
        reserved: Amounts = {}
        derived: Amounts = {}
        for (group, index), amounts in self._amounts.items():
            _add(reserved, amounts, 1)
            if self.states[group, index] == COMMITTED:
                _add(derived, self._derived(group, index), 1)
        assert {n: a for n, a in ledger.reserved.items() if a} == {n: a for n, a in reserved.items() if a}
        assert {n: a for n, a in ledger.derived.items() if a} == derived, (ledger.derived, derived)


def _add(table: Amounts, amounts: Amounts, sign: int) -> None:
    for name, amount in amounts.items():
        table[name] = table.get(name, 0) + sign * amount
