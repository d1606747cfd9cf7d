"""A filter of pairs of words that come from pornographic spam in counts of the web, for lists of queries.

The words are listed in plain text: everyone who builds a list can see what is left out and why. Words for groups of people
(lesbian, teen, ...) exclude nothing by themselves, only beside a word that such spam puts next to them. A filter of words
is inexact both ways: it also excludes a few innocent pairs, and names and foreign words pass it.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


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
