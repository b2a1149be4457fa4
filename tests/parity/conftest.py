"""Vectors of the reference implementation: the project's own few, or a directory of them (`--golden-dir`)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

OWN = Path(__file__).parent / "golden"
ERRORS = pytest.StashKey[dict[str, dict[str, tuple[float, float]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir", type=Path, default=None, help="Directory of golden vectors; see tests/parity/golden."
    )


def pytest_configure(config: pytest.Config) -> None:
    directory = golden_directory(config)
    if not directory.is_dir():
        raise pytest.UsageError(f"--golden-dir {directory} is not a directory")


def golden_directory(config: pytest.Config) -> Path:
    # Where pytest was started for all tests, it knows this option only after it has parsed its arguments.
    chosen = config.getoption("golden_dir", None)
    return OWN if chosen is None else Path(chosen)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`golden_file` runs over the files that match the module's PATTERN."""
    if "golden_file" in metafunc.fixturenames:
        files = sorted(golden_directory(metafunc.config).glob(metafunc.module.PATTERN))
        metafunc.parametrize("golden_file", files, ids=[file.stem for file in files])


@pytest.fixture(scope="session")
def golden_dir(pytestconfig: pytest.Config) -> Path:
    return golden_directory(pytestconfig)


@pytest.fixture
def compare(pytestconfig: pytest.Config) -> Callable[..., None]:
    """Assert closeness and remember the largest error for the summary."""
    errors = pytestconfig.stash.setdefault(ERRORS, {})

    def check(
        file: Path,
        what: str,
        actual: torch.Tensor,
        expected: torch.Tensor,
        *,
        tolerance: float,
        of_largest: bool = False,
        note: str = "",
    ) -> None:
        """|actual − expected| ≤ tolerance, or tolerance × the largest expected entry; 0 means equal."""
        assert actual.shape == expected.shape, (what, actual.shape, expected.shape)
        error = (actual.double() - expected.double()).abs().max().item() if expected.numel() else 0.0
        largest = expected.double().abs().max().item() if expected.numel() else 0.0
        seen = errors.setdefault(file.stem, {})
        absolute, relative = seen.get(what + note, (0.0, 0.0))
        seen[what + note] = (max(absolute, error), max(relative, error / largest if largest else 0.0))
        bound = tolerance * largest if of_largest else tolerance
        assert error <= bound, f"{file.name}: {what} differs by {error:.3g}, allowed {bound:.3g}"

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    errors = config.stash.get(ERRORS, {})
    if not errors:
        return
    terminalreporter.section("largest error per golden file: absolute (relative to the largest entry)")
    for name, found in sorted(errors.items()):
        equal = [what for what, (absolute, _) in found.items() if absolute == 0]
        parts = [f"{what} {error:.1e} ({share:.1e})" for what, (error, share) in found.items() if error]
        if equal:
            parts.append("equal: " + ", ".join(equal))
        terminalreporter.write_line(f"{name:32} " + "; ".join(parts))
