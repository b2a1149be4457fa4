"""Vectors produced by the reference implementation (data only); see golden/README.md."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from namm_runtime.bam import Bam
from namm_runtime.spectrogram import Spectrogram

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("bam_*.safetensors")), ids=lambda path: path.stem)
def test_scores(file):
    golden = load_file(file)
    scores = Bam().score(golden["params"], golden["embeddings"])
    assert (scores - golden["scores"]).abs().max() <= 1e-5 * golden["scores"].abs().max()


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("spectrogram_*.safetensors")), ids=lambda path: path.stem)
def test_spectrum_over_updates_with_evictions(file):
    golden = load_file(file)
    updates = sorted({name.split(".")[0] for name in golden if name.endswith(".attn")})
    assert len(updates) > 1
    spectrogram = Spectrogram()
    ema = carry = torch.zeros(0)
    for update in updates:
        columns = golden[f"{update}.attn"].float()
        batch, heads, _, keys = columns.shape
        new = keys - (ema.shape[2] if ema.numel() else 0)
        grown = [torch.zeros(batch, heads, new, width) for width in (17, 16)]
        if ema.numel():
            grown = [torch.cat((old, fresh), dim=2) for old, fresh in zip((ema, carry), grown, strict=True)]
        ema, carry = grown
        spectrogram.fold(columns, ema, carry)
        expected = golden[f"{update}.ema_raw"]
        assert torch.allclose(ema, expected, rtol=1e-5, atol=2e-6)
        kept = golden[f"{update}.retained_idxs"].long().unsqueeze(-1)
        ema, carry = (x.gather(2, kept.expand(-1, -1, -1, x.shape[-1])) for x in (ema, carry))
