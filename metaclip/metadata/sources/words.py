"""Words and pairs of words from counts that packages carry: a substitute for counting Wikipedia itself.

Unigrams: the words of English Wikipedia with their counts, by count, as in the paper. Left out is what no text can match as
a word (the tokeniser's clitics, numbers with a comma), and markup and colours that its reader took for words.

Bigrams: pairs of words of the web, with the counts of pairs and words in one corpus, so that PMI = log2(c12 N / (c1 c2)) is
defined. Pairs with a count of at least `min_count` are ranked by normalised PMI (`string_counts.pmi`): by count the first
ones are "of the" and "in the", by PMI they are typing errors. The paper's PMI >= 30 leaves none here: a pair that occurs
100,000 times in 588 G words has at most 23. Left out are pairs with a word that is in no dictionary, pairs of a word with
itself, and spam.

Cost: 829,254 words in 2 s, 286,358 pairs in 2.4 s.
"""

from __future__ import annotations

import collections
import dataclasses
import html
import re
from collections.abc import Iterator
from typing import Final

import numpy as np

from metaclip.errors import MetaclipError
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package
from metaclip.metadata.sources.string_counts import pmi
from metaclip.storage.files import gunzip


@dataclasses.dataclass(frozen=True)
class WordSettings:
    """A file of words with counts."""

    package: Package
    member: str
    """Lines of "word;count", plain or gzipped."""
    min_count: int = 100
    """Words with smaller counts are left out; 100 in the paper."""


@dataclasses.dataclass(frozen=True)
class PairSettings:
    """Files of pairs and words with counts, of one corpus, and dictionaries."""

    package: Package
    pairs: str
    """The package's file of pairs: lines of "w1 w2", tab, count."""
    words: str
    """The package's file of words: lines of word, tab, count."""
    spelling: str
    """The package's file of known words: one per line."""
    dictionary: Package
    """A package with more words."""
    dictionary_words: str
    """Its file: lines of word, space, count."""
    min_count: int = 100_000
    """Pairs with smaller counts are left out."""


def unigrams(settings: WordSettings) -> Candidates:
    """Return the clean words by descending count, words with equal counts by code points."""
    where = f"{settings.package}, {settings.member}"
    data = gunzip(packages.read(settings.package, settings.member), where)
    left_out, counts = collections.Counter[str](), dict[str, int]()
    for raw, count in iter_counts(data, ";", where):
        if count < settings.min_count:
            left_out["count"] += 1
        elif not (word := clean_word(raw)):
            left_out["no word"] += 1
        else:
            left_out["repeated"] += (
                word in counts
            )  # as written, and with its character references resolved
            counts[word] = counts.get(word, 0) + count
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    facts = {"read": where, "rows": left_out.total() + len(counts), "left_out": dict(left_out)}
    return Candidates.of(ranked, facts, (float(counts[word]) for word in ranked))


def bigrams(settings: PairSettings) -> Candidates:
    """Return the clean pairs by descending normalised PMI, then by descending count, then by code points."""
    where = f"{settings.package}, {settings.pairs}"
    read = packages.members_of(
        packages.fetch(settings.package).read_bytes(),
        [settings.pairs, settings.words, settings.spelling],
        str(settings.package),
    )
    words, pairs = collections.Counter[str](), collections.Counter[str]()
    for word, count in iter_counts(read[settings.words], "\t", f"{settings.package}, {settings.words}"):
        words[word] += count
    left_out = collections.Counter(repeated=0)
    for pair, count in iter_counts(read[settings.pairs], "\t", where):
        left_out["repeated"] += pair in pairs
        pairs[pair] += (
            count  # some occur twice: they were counted with their capitals and lower-cased later
        )
    known = set(read[settings.spelling].decode().split())
    more = packages.read(settings.dictionary, settings.dictionary_words)
    known.update(
        word for word, _ in iter_counts(more, " ", f"{settings.dictionary}, {settings.dictionary_words}")
    )
    rows, kept = len(pairs) + left_out["repeated"], list[tuple[str, int, int, int]]()
    for pair, count in pairs.items():
        first, second = pair.split(" ")
        if count < settings.min_count:
            left_out["count"] += 1
        elif not (first in known and second in known and first in words and second in words):
            left_out["not in a dictionary"] += 1
        elif first == second:
            left_out["one word twice"] += 1
        elif is_explicit(pair):
            left_out["explicit"] += 1
        else:
            kept.append((pair, count, words[first], words[second]))
    c12, c1, c2 = np.array([row[1:] for row in kept], np.int64).reshape(-1, 3).T
    _, normalised = pmi(c12, c1, c2, sum(words.values()))
    scores = {row[0]: score for row, score in zip(kept, normalised.tolist(), strict=True)}
    ranked = sorted(scores, key=lambda pair: (-scores[pair], -pairs[pair], pair))
    facts = {"read": where, "rows": rows, "left_out": dict(left_out)}
    return Candidates.of(ranked, facts, (scores[pair] for pair in ranked))


def iter_counts(data: bytes, separator: str, where: str) -> Iterator[tuple[str, int]]:
    """Yield word and count of lines that end in a separator and a count. Raise MetaclipError for a line that does not."""
    for number, line in enumerate(data.decode("utf-8-sig", "replace").split("\n"), 1):
        if not line:
            continue
        word, found, count = line.removesuffix("\r").rpartition(separator)
        if not (found and count.isascii() and count.isdigit()):
            raise MetaclipError(
                f"{where}, line {number}: {line[:60]!r} does not end in {separator!r} and a count"
            )
        yield word, int(count)


_LETTERS: Final = r"[^\W_]+[\u0300-\u036f]*"
_WORD: Final = re.compile(rf"(?:{_LETTERS})+(?:['\u2019&/+*\u00b7-](?:{_LETTERS})+)*(?:\+\+?|\#)?")
_CLITIC: Final = re.compile(r"n['\u2019]t|['\u2019]\w+")
_COLOUR: Final = re.compile(r"(?=.*[0-9])(?=.*[a-f])[0-9a-f]{6}|([0-9a-f]{2})\1\1")
_ATTRIBUTES: Final = re.compile(
    "align|bgcolor|border-collapse|br|cellpadding|cellspacing|colspan|doctype|font-size|font-weight|gt|includeonly"
    "|javascript|lt|mapframe|nbsp|noinclude|nowrap|onlyinclude|px|rowspan|tfoot|thead|valign|wikitable"
)


def clean_word(raw: str) -> str:
    """Return a counted word as texts have it, with its character references resolved; "" for what is no word."""
    word = html.unescape(raw)
    if (
        not _WORD.fullmatch(word)
        or _CLITIC.fullmatch(word)
        or _COLOUR.fullmatch(word)
        or _ATTRIBUTES.fullmatch(word)
    ):
        return ""
    # "i̇stanbul": the lower-cased capital with a dot, which no text has.
    return "" if "i\u0307" in word else word


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The words of pairs that come from pornographic spam in counts of the web, in plain text: everyone who builds a list can see what
# is left out and why. Words for groups of people (lesbian, teen, ...) exclude nothing by themselves, only beside a word that
# such spam puts next to them. A filter of words is inexact both ways: it also excludes a few innocent pairs, and names and
# foreign words pass it.
_EXPLICIT: Final = _words(
    """
    anal anus ass asses asshole bangers bangs bareback bbw bdsm beastality beastiality bestiality bitches blowjob
    blowjobs bondage boob boobs booties bukkake clit clitoris clits cock cocks creampie creampies cuckold cum cumming
    cums cumshot cumshots cunnilingus cunt cunts deepthroat dick dicks dildo dildos ejaculate ejaculation enema erotic
    erotica erotik escorts exhibitionism fag fags femdom feminization fetisch fetish fingering fisting flashers footjob
    fuck fucked fucker fuckers fucking fucks gangbang gangbangs genitals handjob handjobs hardcore hentai hogtied
    hooters horny humping humps incest jizz knockers labia ladyboy ladyboys lesbianism lesbo livecam livesex lolita
    lolitas masturbate masturbating masturbation milf milfs milking mouthfuls naturist naturists nipple nipples nude
    nudes nudism nudist nudists nudity nympho orgasm orgasms orgies orgy pantie panties panty peeing penis perky piss
    pissing playboy pooping porn porno pornographic pornography porns preteen preteens pubic pussies pussy scat sexo
    sexy shemale shemales shit slut sluts softcore spank spanked spanking spermshack squirt squirting strapon stripper
    strippers striptease suck sucking sucks swinger swingers tgp thong thongs threesome threesomes tit tits titties
    titty topless trannies tranny transexual transexuals transsexual transsexuals transvestite transvestites twink
    twinks upskirt upskirts vagina vaginal viagra vibrator vibrators voyeur voyeurs voyeurweb voyuer wank whore whores
    worldsex xxx zoophilia
    """
)
"""A pair with one of these is left out."""

_SEX_IS_FINE_WITH: Final = _words(
    """
    age and change chromosome chromosomes determination differences discrimination education equality gender hormone
    hormones offender offenders opposite or ratio ratios roles same steroids
    """
)

_CORE: Final = _words(
    """
    amateur amateurs babe babes bang beast beaver bikini bizarre blow blowing booty breasted breasts busty butt butts
    cam camel cams celebs cheerleaders chubby coed coeds diaper domination drunk ebony escort exploited flashers
    flashing galleries gallery gang gay gays granny gratis hairy horse housewives humiliation hunk hunks hunter
    insertion insertions interracial jenna jugs kelly knotting latina latinas lesbian lesbians lick licking lingerie
    mating mature melons moms naked oops oral pantyhose pee penetration personals pic pics posing rape savanna
    schoolgirl schoolgirls seeker shaved slave slaves spread strap strip stripping teen teens thumbnails thumbs tiffany
    titans toe toons torture virgin virgins webcam webcams
    """
)
_BESIDE: Final = _CORE | _words(
    """
    a action adult adults advice alta an anderson animal anime arab armpits asian asians bang bar bars bathroom bear
    bears beautiful beaver bi big bisexual bizarre black blonde blondes blowing boat booth bound boy boys bra bras
    brazilian break breast breasted british britney brittany brittney brooke brunette brutal bus bush cartoon cartoons
    cash celeb celebrities celebrity chat cheating cherries chest chests chick chicks chunky cleavage clip clips club
    clubs coco college com comics concert contest couple couples cowboy cowboys cup cute dad daddy dating daughter deep
    desperate dirty disney dog dogs doing domination double drunk duff dvd facial fake family fantasies fantasy farm
    farms fat father feet female females film films fist flash following foot forced free friendly fun galleries gallery
    galore gang gets getting ghetto girl girls giving glory group guy guys hand hard having he her hidden hilton his
    hitchhiker hoe hoes hole holes home horse horses hot huge hunger in indian into is jameson japanese job jobs jugs
    kiss kissing ladies lady large latin latino leather legs lesb live locker lopez lovers maid maids male man manga
    massive men micro military milking milky model models mom mother movie movies muscle my natural naturalist naturals
    naughty nice non nonstop normal nurse nylon nylons old older onion outdoor pants paris penetration petite phat photo
    photos picture pictures plug plump poker porking pregnant prison private public real reality redhead remember rooms
    round russian sample samples samson sauna scenes secretaries secretary seeker sex sexual she shot shots shower
    showing simpson sister sisters site sites slideshow smother some son spears spies spring spy squad standing
    stockings stories story street stud studs sublime surfer sweet swim teenage the their thick throat thug thugs
    thumbnail tickling tight tiny toes toons topples torture toy toys trailer trailers travel trick troubled twin twins
    underwear very video videos violence visit web wet white wife wild wives woman women wrestling young younger your
    zoo
    """
)
"""A pair of these is left out if one of them is in `_CORE`."""


def is_explicit(pair: str) -> bool:
    """Return whether a pair of words, "w1 w2", is of the kind that comes from pornographic spam."""
    words = set(pair.lower().split(" "))
    if words & _EXPLICIT:
        return True
    if "sex" in words:
        return not words & _SEX_IS_FINE_WITH
    return words <= _BESIDE and bool(words & _CORE)
