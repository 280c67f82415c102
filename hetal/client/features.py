"""Texts and images to feature vectors, with a pretrained transformer that runs on the client (extra ``features``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from hetal.client.dataset import Array
from hetal.errors import InputError

BATCH: Final = 32
IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
INSTALL_HINT: Final = "Install the extra: pip install 'hetal[features]'."


def encode(encoder: str, *, texts: Path | None = None, images: Path | None = None) -> Array:
    """Features (samples, dimensions) of the lines of a file or of the images of a folder in sorted order.

    Args:
        encoder: name or folder of a transformers model. Texts are pooled by the mean over tokens, as sentence
        encoders are
            trained; images by the class token of the last layer, as in HETAL.

    Raises:
        InputError: the extra is missing, the model does not load, or there is nothing to encode.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError("--encoder needs torch and transformers", hint=INSTALL_HINT) from error
    if texts is not None:
        lines = texts.read_text(encoding="utf-8").splitlines()
        if not lines:
            raise InputError(f"{texts} holds no lines")
        return _texts(torch, transformers, encoder, lines)
    if images is None:
        raise InputError("there is nothing to encode")
    files = sorted(f for f in images.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{images} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return _images(torch, transformers, encoder, files)


def _texts(torch: Any, transformers: Any, encoder: str, lines: Sequence[str]) -> Array:
    tokenizer = _loaded(transformers.AutoTokenizer, encoder)
    model = _loaded(transformers.AutoModel, encoder).eval()
    rows = []
    with torch.no_grad():
        for batch in _batches(lines):
            tokens = tokenizer(list(batch), padding=True, truncation=True, return_tensors="pt")
            hidden = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            rows.append(((hidden * mask).sum(1) / mask.sum(1)).double().numpy())
    return np.concatenate(rows)


def _images(torch: Any, transformers: Any, encoder: str, files: Sequence[Path]) -> Array:
    from PIL import Image

    processor = _loaded(transformers.AutoImageProcessor, encoder)
    model = _loaded(transformers.AutoModel, encoder).eval()
    rows = []
    with torch.no_grad():
        for batch in _batches(files):
            pictures = [Image.open(file).convert("RGB") for file in batch]
            hidden = model(**processor(images=pictures, return_tensors="pt")).last_hidden_state
            rows.append(hidden[:, 0].double().numpy())
    return np.concatenate(rows)


def _loaded(kind: Any, encoder: str) -> Any:
    try:
        return kind.from_pretrained(encoder)
    except (OSError, ValueError) as error:
        raise InputError(f"the encoder {encoder!r} does not load: {error}") from error


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
