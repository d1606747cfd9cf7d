"""The backend that walks the automaton in plain Python: for a few thousand texts faster than compiling the kernels.

Cost: 0.3 s to convert the tables of 500,000 entries to dictionaries, then 10 us per text. The kernels take 3 s to compile
once on a machine, then 0.3 us per text.
"""

from __future__ import annotations

import itertools

import pyarrow as pa

from metaclip.matching.automaton import Automaton
from metaclip.matching.match_arrays import match_each


class PythonBackend:
    """Walks the machine of words over the tokens of a text, as `metaclip.native.kernel` describes."""

    def __init__(self, automaton: Automaton) -> None:
        """Convert the tables of an automaton that this backend supports."""
        (machine,) = automaton.machines
        arrays = machine.arrays
        blob, ends = arrays["bytes"].tobytes(), arrays["symbols"][1:, 0].tolist()
        self.rule = automaton.rule
        self._symbols = {blob[begin:end]: i for i, (begin, end) in enumerate(itertools.pairwise(ends), 1)}
        edges = arrays["edges"][arrays["edges"][:, 2] > 0].astype("uint64")
        self._children = dict(zip((edges[:, 0] << 32 | edges[:, 1]).tolist(), edges[:, 2].tolist(), strict=True))
        self._nodes = arrays["nodes"].data.cast("B").cast("I")

    @staticmethod
    def supports(automaton: Automaton) -> bool:
        """Return whether this backend can match: all entries consist of words, and all matches are wanted."""
        return [machine.words for machine in automaton.machines] == [True] and not automaton.rule.longest_only

    def match_array(self, texts: pa.Array) -> pa.Array:
        """Match a string or large_string array; return an array of the type MATCHES."""
        return match_each(texts, self.match_text)

    def match_text(self, text: str) -> list[int]:
        """Match one text; return the ascending entry ids."""
        nodes, children, symbols, fold = self._nodes, self._children, self._symbols, self.rule.fold_spaces
        found: set[int] = set()
        node = 0
        # Without the two spaces of the padding, the tokens are the strings between single spaces.
        for token in self.rule.text(text)[1:-1].encode("utf-8", "surrogatepass").split(b" "):
            if not token and fold:
                continue
            symbol = symbols.get(token)
            if symbol is None:
                node = 0
                continue
            child = None
            while node and (child := children.get(node << 32 | symbol)) is None:
                node = nodes[4 * node]
            node = symbol if child is None else child
            output = node
            while output:
                if entry := nodes[4 * output + 1]:
                    found.add(entry - 1)
                output = nodes[4 * output + 2]
        return sorted(found)
