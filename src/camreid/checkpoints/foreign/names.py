"""camreid's names of the tensors in other programs' files: facts of the files, no code."""

import re
from collections.abc import Iterable

from camreid.models.mgn import PARTS

Rules = tuple[tuple[str, str], ...]

_PIXELS = (r"^pixel_(mean|std)$", r"pixel_norm.\1")
_PART = rf"^({'|'.join(PARTS)})_head\."
# FastReID v1.0 had a `classifier` in each head, v0.1.1 called the neck `bnneck`
_FASTREID_OLDER: Rules = (
    (r"(heads|_head)\.classifier\.weight$", r"\1.weight"),
    (r"^heads\.bnneck\.", "heads.bottleneck.0."),
    (r"_head\.bnneck\.", "_head.bottleneck.1."),
    (r"_pool\.0\.p$", "_head.pool_layer.p"),
    (r"_pool\.1\.weight$", "_head.bottleneck.0.weight"),
)
_FASTREID: Rules = (
    _PIXELS,
    (r"^heads\.weight", "heads.identity.weight"),
    (r"^heads\.pool_layer\.p", "backbone.pool.p"),
    (r"^heads\.bottleneck\.0\.", "neck."),
    (r"^backbone\.", "backbone.trunk."),
)
_FASTREID_MGN: Rules = (
    _PIXELS,
    (r"^(b\d+)_pool\.2\.", r"norms.\1."),  # v0.1.1 alone: between reduction and neck
    (rf"{_PART}pool_layer\.p", r"pools.\1.p"),
    (rf"{_PART}bottleneck\.0\.", r"reductions.\1."),
    (rf"{_PART}bottleneck\.1\.", r"necks.\1."),
    (_PART, r"heads.\1."),
    (r"^backbone\.", "trunk."),
    (r"^(b[123])\.", r"branches.\1."),
)
_TORCHREID: Rules = ((r"^classifier\.", "heads.identity."), (r"^", "backbone.trunk."))
_TRANSREID: Rules = (
    (r"^classifier\.", "heads.identity."),
    (r"^bottleneck\.", "neck."),
    (r"^base\.sie_embed$", "backbone.trunk.norm_pre.table"),
    (r"^(base|image_encoder|backbone)\.", "backbone.trunk."),
)
_TRANSREID_NEEDLESS: Rules = (
    (r"^(b2|bottleneck_\d|classifier_\d)\.", "a local branch of TransReID (JPM)"),
    (r"^(bottleneck|classifier)_proj\.|^image_encoder\.(proj$|attnpool\.)", "CLIP's projection"),
    (r"^(prompt_learner|text_encoder)\.|^logit_scale$", "the texts of CLIP-ReID"),
    (r"^cv_embed$", "CLIP-ReID's camera embedding, of the class token alone"),
)


def fastreid_names(file: Iterable[str], model: str) -> tuple[dict[str, str], dict[str, str]]:
    """Names in camreid of a FastReID file's tensors, and why others are not needed, by name."""
    latest = {name: _rename(name, _FASTREID_OLDER) for name in file}
    # hybrid files of the model zoo have both
    both = {name: new for name, new in latest.items() if new != name and new in latest}
    needless = {name: f"the file has it as {new} too" for name, new in both.items()}
    for name in latest:
        if name.endswith("classifier.t"):
            needless[name] = "the running threshold of an ArcSoftmax that later releases lack"
        elif name == "heads.pool_layer.p" and model.startswith("bot"):
            needless[name] = "the average pooling of BoT has no exponent"
    rules = _FASTREID_MGN if any(name.startswith("b1_head.") for name in latest) else _FASTREID
    used = {name: _rename(new, rules) for name, new in latest.items() if name not in needless}
    return used, needless


def torchreid_names(file: Iterable[str]) -> dict[str, str]:
    """Names in camreid of the tensors of a torchreid OSNet or ResNet."""
    names = tuple(file)
    rules = _TORCHREID if "conv1.conv.weight" in names else ((r"^fc\.", "projection."), *_TORCHREID)
    return {name: _rename(name, rules) for name in names}


def transreid_names(file: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Names in camreid of the tensors of BoT, TransReID and their kin, and why others are not used.

    Those of the trunk end as in the file. The global feature of TransReID's JPM comes from its own
    copies of last block and norm, `b1`.
    """
    bare = {n: re.sub(r"^((module|model|net|network|_orig_mod)\.)+", "", n) for n in file}
    rules, why = _TRANSREID, _TRANSREID_NEEDLESS
    if "b1.1.weight" in bare.values():
        found = (re.match(r"base\.blocks\.(\d+)\.", name) for name in bare.values())
        last = f"blocks.{max((int(match[1]) for match in found if match), default=0)}."
        b1 = (r"^b1\.0\.", f"backbone.trunk.{last}"), (r"^b1\.1", "backbone.trunk.norm")
        rules = (*b1, *rules)
        why = ((rf"^base\.({last}|norm\.)", "b1 of JPM takes its place"), *why)
    needless = {n: text for n, own in bare.items() for p, text in why if re.search(p, own)}
    return {n: _rename(own, rules) for n, own in bare.items() if n not in needless}, needless


def _rename(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name
