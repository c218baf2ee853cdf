"""Which language a text is in, by script and by its commonest words.

A script with one language of ours decides alone. Otherwise the language with the most stop words wins, if it
has at least one and at least 5 % of the words are such. So: a few words, names, code and mixed texts are
unknown; close relatives (Norwegian and Danish) are not told apart, and a language that is not listed can pass
for a listed one that shares its script or its small words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Literal

from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.rules.rule import Rule, reference

_STOP_WORDS = {
    "en": "a i my we if the and of to is in that it for was with are be this have not you on as at by or but",
    "de": "der die das und ist nicht ein eine ich zu mit sich auf für den dem von im auch wir sie es wird",
    "fr": "le la les et est une des un que pour dans qui pas sur avec au ce il elle nous vous plus du sont",
    "es": "el los las y es una que de en por con para no se su del al lo como más pero está son",
    "it": "il di che è la un una per non con sono del della gli le si nel anche come più questo ma alla",
    "pt": "o os as e é uma que de em por com para não se do da no na um mais como mas são está ao",
    "nl": "de het een en van is dat niet ik te op voor met zijn er aan ook maar wordt door bij naar",
    "sv": "och att det är en ett som på för med inte av den till jag har vi kan men om från så",
    "da": "og at det er en et som på for med ikke af den til jeg har vi kan men om fra så",
    "fi": "ja on ei se että hän oli ovat mutta niin kun myös tai joka sekä kuin mitä tämä voi ole",
    "pl": "i w na nie się z do to jest że jak o za od po są dla oraz ale tak przez czy być",
    "cs": "a v na se že je z do to s o jako pro ale by není které jsem jsou nebo také být",
    "tr": "ve bir bu için ile da de çok ne gibi daha var olarak olan en kadar ama değil sonra mi",
    "vi": "và là của có không được cho một trong với người những các này đã để khi từ tôi bạn",
    "id": "dan yang di ini itu dengan untuk tidak dari dalam akan pada saya ke adalah ada mereka bisa juga",
    "sw": "na ya wa kwa ni katika la za hii kama pia ili hiyo yake cha vya sana lakini yao mimi kuwa au",
    "ro": "și în este de la cu nu pe care un o să mai din pentru sunt ca dar sau fi această",
    "hu": "a az és hogy nem is egy van volt de meg ez azt csak már vagy mint kell lesz még",
    "ru": "и в не на что с по это как а то он я но мы для из у от так за же",
    "bg": "и в не на че с по това как а то той аз но ние за от са да се е като",
    "uk": "і в не на що з по це як а то він я але ми для із у від та є",
    "mr": "आहे आणि या हे मध्ये तो ती आहेत नाही होते केली करण्यासाठी त्या एक असे",
    "hi": "है और के में की का को से यह हैं पर नहीं एक कि भी था करने लिए",
    "ne": "छ र को मा हो लागि यो छन् पनि भने गर्न हुन्छ थियो एक",
    "fa": "و در به از که این را با است برای آن یک هم تا می بر شود",
    "ar": "في من على إلى أن هذا هذه التي الذي كان لا ما مع عن هو",
    "ur": "ہے اور کے میں کی کا کو سے یہ ہیں پر نہیں ایک کہ بھی",
}
STOP_WORDS = {code: frozenset(words.split()) for code, words in _STOP_WORDS.items()}
SCRIPTS = {
    **{"HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh", "THAI": "th", "HEBREW": "he"},
    **{"GREEK": "el", "BENGALI": "bn", "TAMIL": "ta", "TELUGU": "te", "KANNADA": "kn", "GUJARATI": "gu"},
    **{"GURMUKHI": "pa", "MALAYALAM": "ml", "ARMENIAN": "hy", "GEORGIAN": "ka"},
}
KNOWN = frozenset(STOP_WORDS) | frozenset(SCRIPTS.values())
"""Codes that `detect` can give."""


def detect(text: str) -> str | None:
    """ISO 639-1 code of a text's language, None where there is too little to tell; see the module."""
    scripts = Counter(unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha())
    letters = sum(scripts.values())
    if letters and scripts["HIRAGANA"] + scripts["KATAKANA"] > 0.1 * letters:
        return "ja"
    for script, code in SCRIPTS.items():
        if scripts[script] > 0.5 * letters:
            return code
    words = [w for w in re.split(r"[\s\d_.,;:!?\"'()\[\]{}।،؟«»“”‘’…/*#-]+", text.lower()) if w]
    hits = {code: sum(w in stop for w in words) for code, stop in STOP_WORDS.items()}
    best = max(hits, key=lambda code: hits[code])
    return best if hits[best] >= max(1, 0.05 * len(words)) else None


class LanguageSettings(RewardSettings):
    """1 if the answer is in a language, 0 if it is in another; abstains where it cannot tell."""

    kind: Literal["language"] = "language"
    language: str | None = None
    """ISO 639-1 code; left out, each prompt's own, from `field`."""
    field: str = "language"
    """Key of the prompt's meta with the code."""

    def build(self, name: str, resolver: Resolver) -> Rule:
        """The rule."""

        def judge(rollout: Rollout) -> Score:
            wanted = self.language or str(reference(rollout, self.field))
            if wanted not in KNOWN:
                return Score.error(f"language {wanted!r} is not known; known: {', '.join(sorted(KNOWN))}")
            found = detect(rollout.text)
            return Score.abstain("language unknown") if found is None else Score(float(found == wanted))

        return Rule(name, judge, self)
