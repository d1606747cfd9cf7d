"""The naive algorithm: all of curation as the paper states it, to be read in one sitting and trusted.

    python curation/naive.py list.txt texts.txt --t 20 [--seed 0]

The files hold one entry and one text per line; it prints the counts, then the texts that are kept. It takes a minute where
metaclip takes a millisecond. The tests compare every backend and engine of metaclip with it: matches, counts,
probabilities and draws must be the same. The laws are those of "Demystifying CLIP Data" (arXiv 2309.16671), section 3; the
draw is metaclip's own.
"""

import argparse
import hashlib


def pad_text(text):
    """Put spaces at both ends of the text and around punctuation; tabs and line ends become spaces too."""
    padded = f" {text} "
    for mark in ",.;:?!`":
        padded = padded.replace(mark, f" {mark} ")
    for blank in "\t\n\r":
        padded = padded.replace(blank, " ")
    return padded


def pad_entry(entry):
    """Put spaces at both ends of the entry, and nowhere inside."""
    return f" {entry} "


def match(entries, text):
    """Return the ascending ids of the entries whose padded form is a substring of the padded text."""
    padded = pad_text(text)
    return [entry_id for entry_id, entry in enumerate(entries) if pad_entry(entry) in padded]


def counts(matches, size):
    """Count the texts that match each of `size` entries: texts, not occurrences."""
    return [sum(entry_id in ids for ids in matches) for entry_id in range(size)]


def probability(count, t):
    """Return the probability that an entry keeps a text: all of up to t texts, else t of them on average."""
    return min(1.0, t / count) if count else 1.0


def keep_probability(ids, p):
    """Return the probability that any of a text's entries keeps it: 1 - (1 - p[a]) (1 - p[b]) ..., by ascending id."""
    dropped = 1.0
    for entry_id in ids:
        dropped *= 1.0 - p[entry_id]
    return 1.0 - dropped


def mix(x):
    """Mix 64 bits: the finaliser of SplitMix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def draw(seed, epoch, uid_hex):
    """Return u in [0, 1), the same for the same seed, epoch and uid; a text is kept if u < its keep probability."""
    high, low = divmod(int(uid_hex, 16), 2**64)
    h = mix((seed + 0x9E3779B97F4A7C15 * (epoch + 1)) % 2**64)
    h = mix(mix(h ^ high) ^ low)
    return (h >> 11) * 2.0**-53


def main():
    """Count the matches of a file of texts, balance them, and print the texts that the draw keeps."""
    parser = argparse.ArgumentParser(description="Balance the texts of a file by a list of entries.")
    parser.add_argument("list", help="a file with one entry per line")
    parser.add_argument("texts", help="a file with one text per line")
    parser.add_argument(
        "--t",
        type=float,
        required=True,
        help="the threshold: an entry with up to t texts keeps all of them",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with open(arguments.list, encoding="utf-8", newline="\n") as file:
        entries = [line.rstrip("\r\n") for line in file]
    with open(arguments.texts, encoding="utf-8", newline="\n") as file:
        texts = [line.rstrip("\r\n") for line in file]

    matches = [match(entries, text) for text in texts]
    count = counts(matches, len(entries))
    for entry, n in zip(entries, count, strict=True):
        print(f"{n}\t{entry}")
    print()
    p = [probability(n, arguments.t) for n in count]
    for text, ids in zip(texts, matches, strict=True):
        uid = hashlib.md5(text.encode()).hexdigest()  # of a pair with a url: md5(text + url)
        if draw(arguments.seed, 0, uid) < keep_probability(ids, p):
            print(text)


if __name__ == "__main__":
    main()
