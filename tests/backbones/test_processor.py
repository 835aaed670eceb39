"""What is said of the processor."""

import pytest
import torch

from vertebra.backbones import processor
from vertebra.backbones.processor import has_fast_bfloat16, knows_bfloat16


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("fpu sse avx2 avx512f avx512_bf16 avx512_vnni", True),  # Zen 4
        ("fpu avx512f amx_tile amx_bf16 amx_int8", True),  # Sapphire Rapids
        ("fp asimd bf16 i8mm", True),  # Neoverse V1
        ("fpu sse avx2 fma", False),  # Zen 3
        ("fpu avx512f avx512bw avx512_vnni", False),  # Cascade Lake
        ("", False),
    ],
)
def test_cpus_with_instructions_for_bfloat16_are_known(flags: str, fast: bool) -> None:
    assert knows_bfloat16(flags) is fast


@pytest.mark.parametrize("kernels", [True, False])
def test_a_cpu_is_fast_in_bfloat16_where_torch_has_kernels_too(monkeypatch: pytest.MonkeyPatch, kernels: bool) -> None:
    monkeypatch.setattr(processor, "_cpu_lines", lambda *names: ["avx2 avx512_bf16"] * 2)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: kernels)
    assert has_fast_bfloat16(torch.device("cpu")) is kernels
