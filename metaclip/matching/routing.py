"""Which lists a text is matched against: the way from the code of its language to the lists of a query list with languages.

Law, for a text whose language has a code:

1. Case does not matter, and "_" stands for "-". The list of the code itself is taken; else that of another code for the same
   language (`SAME`: lid.176, CLD3, BCP 47, ISO 639 and Wikipedia differ in some); else the code loses its last part, and 1 is
   repeated: zh-Hant-TW, zh-Hant, zh.
2. A text without a language, or whose code leads to no list, goes to OTHER: a list of that name, if there is one, and all lists
   of languages that are not identified (`IDENTIFIED`). These are then searched together, as in the published method.
3. Where neither is there, the text has no list.

A text may be matched against further lists besides (`also`, such as English for mixed texts). With `only`, just these lists
are searched; a text whose own list is not among them has no list, and does not go to OTHER.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.errors import MetaclipError, did_you_mean

OTHER: Final = "other"
"""The name of the list, or of the lists together, for languages without a list of their own."""

SAME: Final = tuple(
    tuple(line.split())
    for line in """
    no nb nob nor
    nn nno
    he iw heb
    id in ind
    yi ji yid
    jv jw jav
    ro mo ron mol
    tl fil tgl
    sh hbs
    bh bho bih
    en simple eng
    be be-tarask be-x-old bel
    gsw als
    nan zh-min-nan
    yue zh-yue
    lzh zh-classical
    vro fiu-vro
    sgs bat-smg
    rup roa-rup
    egl eml
    diq zza
    zh cmn zho
    ar arb ara
    az azj aze
    et ekk est
    fa pes fas
    ku kmr kur
    lv lvs lav
    mg plt mlg
    mn khk mon
    ms zsm msa
    ne npi nep
    or ory ori
    ps pbt pus
    qu quy que
    sq sqi alb
    sw swh swa
    uz uzn uzb
    af afr
    am amh
    bg bul
    bn ben
    bo bod
    bs bos
    ca cat
    co cos
    cs ces
    cy cym
    da dan
    de deu
    el ell
    eo epo
    es spa
    eu eus
    fi fin
    fr fra
    fy fry
    ga gle
    gd gla
    gl glg
    gu guj
    ha hau
    hi hin
    hr hrv
    ht hat
    hu hun
    hy hye
    ig ibo
    is isl
    it ita
    ja jpn
    ka kat
    kk kaz
    km khm
    kn kan
    ko kor
    ky kir
    la lat
    lb ltz
    lo lao
    lt lit
    mi mri
    mk mkd
    ml mal
    mr mar
    mt mlt
    my mya
    nl nld
    ny nya
    oc oci
    pa pan
    pl pol
    pt por
    ru rus
    sa san
    sd snd
    si sin
    sk slk
    sl slv
    sm smo
    sn sna
    so som
    sr srp
    st sot
    su sun
    sv swe
    ta tam
    te tel
    tg tgk
    th tha
    tk tuk
    tr tur
    tt tat
    ug uig
    uk ukr
    ur urd
    vi vie
    xh xho
    yo yor
    zu zul
    an arg
    as asm
    av ava
    ba bak
    br bre
    ce che
    cv chv
    dv div
    gn grn
    ia ina
    kv kom
    kw cor
    li lim
    os oss
    rm roh
    sc srd
    vo vol
    wa wln
    """.strip().splitlines()
)
"""Codes that stand for one language, in lower case, one language a row."""

UNSPACED: Final = frozenset({"bo", "dz", "ja", "km", "lo", "my", "shn", "th", "wuu", "yue", "zh"})
"""Languages that are written without spaces between words."""
VERSION: Final = 1
"""Raised when a code would lead to another list: runs that were begun before are not continued then."""

LABELS: Final = {
    "lid.176": """
    af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq dsb
    dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo
    jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah
    nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su
    sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh
    """,
    "CLD3": """
    af am ar bg bg-latn bn bs ca ceb co cs cy da de el el-latn en eo es et eu fa fi fil fr fy ga gd gl gu ha haw hi hi-latn
    hmn hr ht hu hy id ig is it iw ja ja-latn jv ka kk km kn ko ku ky la lb lo lt lv mg mi mk ml mn mr ms mt my ne nl no ny pa
    pl ps pt ro ru ru-latn sd si sk sl sm sn so sq sr st su sv sw ta te tg th tr uk ur uz vi xh yi yo zh zh-latn zu
    """,
}
"""The labels of fastText's model, by which `metaclip extract` and `--identify` name languages, and of LAION's."""
IDENTIFIED: Final = frozenset(code for labels in LABELS.values() for code in labels.split())

_FIRST_CODE: Final = {code: row[0] for row in SAME for code in row}
_IDENTIFIED_FIRST: Final = frozenset(_FIRST_CODE.get(code, code) for code in IDENTIFIED)


def normal(code: str) -> str:
    """Return a code in lower case, with "-" between its parts."""
    return code.strip().lower().replace("_", "-")


def _codes_of(code: str) -> Iterator[str]:
    """Yield a normal code, and what is left of it without its last part, its last two, and so on."""
    while code:
        yield code
        code = code.rpartition("-")[0]


def _is_identified(code: str) -> bool:
    """Return whether a normal code, or one of its beginnings, stands for a language that is identified."""
    return any(_FIRST_CODE.get(part, part) in _IDENTIFIED_FIRST for part in _codes_of(code))


class Routing:
    """The lists that texts of each language are matched against, by the law of this module.

    >>> routing = Routing(["en", "nb", "zh", "gsw", "rcf"], also=["en"])
    >>> routing.lists_of("zh_Hant"), routing.lists_of("no"), routing.lists_of("xx"), routing.lists_of("en")
    (('zh', 'en'), ('nb', 'en'), ('rcf', 'en'), ('en',))
    """

    def __init__(
        self, lists: Sequence[str], only: Collection[str] | None = None, also: Collection[str] = ()
    ) -> None:
        """Take the names of the lists, those to search (`only`; None for all), and those for all texts (`also`).

        `only` and `also` name lists as codes name languages, so that "no" names a list "nb"; "other" in `only` stands for the
        lists of OTHER. Raise MetaclipError for a name that leads to no list.
        """
        self._by_name: dict[str, str] = {}
        self._by_language: dict[str, str] = {}
        for name in lists:
            code = normal(name)
            if (other := self._by_name.setdefault(code, name)) != name:
                raise MetaclipError(
                    f"the query list has the languages {other!r} and {name!r}, which are one; give them one name"
                )
            self._by_language.setdefault(_FIRST_CODE.get(code, code), name)
        self.others = tuple(name for name in lists if not _is_identified(normal(name)))
        """The lists of OTHER."""
        self._lists = tuple(lists)
        self._only = None if only is None else {name for one in only for name in self.named(one)}
        self._also = tuple(name for one in also for name in self.named(one))

    def named(self, code: str) -> tuple[str, ...]:
        """Return the lists that a code names, of which "other" may name several. Raise MetaclipError if it names none."""
        if normal(code) == OTHER and self.others:
            return self.others
        if (name := self._own_list(normal(code))) is None:
            shown = ", ".join(self._lists[:20]) + (", ..." if len(self._lists) > 20 else "")
            raise MetaclipError(
                f"the query list has no language {code!r:.80}{did_you_mean(code, self._lists)}; it has {shown}"
            )
        return (name,)

    def _own_list(self, code: str) -> str | None:
        for part in _codes_of(code):
            if (name := self._by_name.get(part)) is not None:
                return name
            if (name := self._by_language.get(_FIRST_CODE.get(part, part))) is not None:
                return name
        return None

    def lists_of(self, code: str | None) -> tuple[str, ...]:
        """Return the names of the lists that a text is searched for, its own before the further ones; () if it has none."""
        own = self._own_list(normal(code)) if code else None
        lists = self.others if own is None else (own,)
        if self._only is not None:
            lists = tuple(name for name in lists if name in self._only)
        return tuple(dict.fromkeys((*lists, *self._also)))

    def route(self, codes: pa.Array) -> tuple[list[tuple[str, ...]], npt.NDArray[np.int64]]:
        """Return the groups of lists that occur, and the number of the group of each text: int64[n].

        `codes` is an array of strings, null for a text without a language.
        """
        encoded = codes.dictionary_encode()
        values = [*encoded.dictionary.to_pylist(), None]
        groups: dict[tuple[str, ...], int] = {}
        group_of = [groups.setdefault(self.lists_of(value), len(groups)) for value in values]
        index = encoded.indices.fill_null(len(values) - 1).to_numpy()
        return [*groups], np.array(group_of, np.int64)[index]
