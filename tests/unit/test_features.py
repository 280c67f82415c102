"""Texts and images to features with small, randomly initialised transformers; runs where the extra is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hetal.client.features import encode
from hetal.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_texts_give_one_row_each_whatever_their_company(text_encoder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a b c\nb\n" * 20)
    features = encode(str(text_encoder), texts=texts)
    assert features.shape == (40, 16)
    assert np.abs(features[0::2] - features[0]).max() < 1e-5
    texts.write_text("b\n")
    # Padding beside longer texts must not enter the mean.
    assert np.abs(encode(str(text_encoder), texts=texts)[0] - features[1]).max() < 1e-5


def test_images_in_the_order_of_their_names(image_encoder: Path, tmp_path: Path) -> None:
    for name, shade in (("b.png", 200), ("a.png", 10), ("notes.txt", 0)):
        if name.endswith("png"):
            image.new("L", (28, 28), shade).save(tmp_path / name)
        else:
            (tmp_path / name).write_text("no image")
    features = encode(str(image_encoder), images=tmp_path)
    assert features.shape == (2, 16)
    (tmp_path / "b.png").unlink()
    assert np.abs(encode(str(image_encoder), images=tmp_path)[0] - features[0]).max() < 1e-5


def test_what_cannot_be_encoded(text_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError):
        encode(str(text_encoder), texts=tmp_path / "empty.txt")
    with pytest.raises(InputError):
        encode(str(text_encoder), images=tmp_path)
    with pytest.raises(InputError):
        encode(str(tmp_path / "absent"), texts=tmp_path / "empty.txt")
    (tmp_path / "one.txt").write_text("a\n")
    with pytest.raises(InputError, match="does not load"):
        encode(str(tmp_path / "absent"), texts=tmp_path / "one.txt")
