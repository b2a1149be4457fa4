"""No file of a golden directory is left out."""

from fnmatch import fnmatch

KINDS = ("spectrogram_*", "bam_*", "mlp_*", "select_*", "rope_ntk*", "ckpt_ref*", "tiny_llm*", "e2e_*")


def test_every_file_is_of_a_kind_that_is_checked_and_every_kind_is_there(golden_dir):
    names = [file.name for file in golden_dir.iterdir() if file.name != "README.md"]
    assert [name for name in names if not any(fnmatch(name, kind) for kind in KINDS)] == []
    assert [kind for kind in KINDS if not any(fnmatch(name, kind) for name in names)] == []
