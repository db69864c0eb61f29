"""The XLM-R tokenizer as a `tokenizers` file, rebuilt from its vocabulary."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram as UnigramModel

from service.embedding.convert.e5_file import Unigram

MASK = "<mask>"
# SentencePiece's nmt_nfkc is NFKC but for these: controls vanish, odd spaces become a space, and the
# full-width tilde, common in Korean menus ("2～3인분"), stays as it is.
_VANISH = "[\u0001-\u0008\u000b\u000e-\u001f\u007f\u008f\u009f]"
_SPACES = "[\t\n\u000c\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"
_TILDE, _STAND_IN = "\uff5e", "\ue0fe"


def unigram_tokenizer(unigram: Unigram) -> Tokenizer:
    """Return the tokenizer: `<s> pieces </s>`, padding and truncation left to the caller."""
    pieces = list(zip(unigram.pieces, unigram.scores, strict=True))
    tokenizer = Tokenizer(UnigramModel(pieces, unk_id=unigram.unk, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_VANISH), ""),
            normalizers.Replace(Regex(_SPACES), " "),
            normalizers.Replace(_TILDE, _STAND_IN),
            normalizers.NFKC(),
            normalizers.Replace(_STAND_IN, _TILDE),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    bos, eos = unigram.pieces[unigram.bos], unigram.pieces[unigram.eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, unigram.bos), (eos, unigram.eos)],
    )
    specials = [bos, unigram.pieces[unigram.pad], eos, unigram.pieces[unigram.unk], MASK]
    tokenizer.add_special_tokens([s for s in specials if s in unigram.pieces])
    return tokenizer
