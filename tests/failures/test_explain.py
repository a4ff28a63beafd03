"""Failures as people meet them: the root is found behind what is said last and loudest, and nothing false is said of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

import labkit
from labkit import cli
from labkit.common.errors import SettingError
from labkit.failures.verdicts import Verdict, explain, explain_files, explain_message, explain_text
from labkit.failures.wording import as_flags

WRAPPER = "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"


def core(*lines: str, begin: Sequence[str] = ()) -> str:
    """A start of vLLM whose engine process fails with `lines`."""
    said = [f"(EngineCore pid=7) INFO 11-26 10:00:00 [core.py:1] {line}" for line in begin]
    said += [f"(EngineCore pid=7) ERROR 11-26 10:00:09 [core.py:700] {line}" for line in ("EngineCore failed to start.", *lines)]
    return "\n".join(said) + "\n" + WRAPPER


def scheduler(*lines: str, begin: Sequence[str] = ()) -> str:
    """A start of SGLang whose scheduler fails with `lines`."""
    said = [f"[2026-11-26 10:00:00 TP0] {line}" for line in begin]
    said += ["[2026-11-26 10:00:09 TP0] Scheduler hit an exception: Traceback (most recent call last):", *lines, ""]
    return "\n".join([*said, "[2026-11-26 10:00:09] Received sigquit from a child process. It usually means the child failed.\n"])


def frame(path: str, function: str, source: str = "x()") -> tuple[str, str]:
    return f'  File "/env/lib/python3.12/site-packages/{path}", line 401, in {function}', f"    {source}"


AWQ = "torch.bfloat16 is not supported for quantization method awq. Supported dtypes: [torch.float16]"
QWEN9 = "The checkpoint you are trying to load has model type `qwen9` but Transformers does not recognize this architecture."
NVCC = (
    "RuntimeError: Ninja build failed. Ninja output:",
    "[1/2] /usr/local/cuda-12.4/bin/nvcc -gencode=arch=compute_120a,code=sm_120a -c cuda.cu -o cuda_0.o",
    "FAILED: [code=1] cuda_0.o",
    "nvcc fatal   : Unsupported gpu architecture 'compute_120a'",
    "ninja: build stopped: subcommand failed.",
)
HINTS = ("Possible solutions:", "1. set --mem-fraction-static to a smaller value (e.g., 0.8 or 0.7)")
LOADING = ["Starting to load model m..."]
LOADED = [*LOADING, "Model loading took 15.27 GiB memory and 6.1 seconds"]
SERVING = [*LOADED, "Application startup complete."]
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 350.00 MiB. GPU 0 has a total capacity of 23.68 GiB."


def refused(config: str, words: str) -> tuple[str, str]:
    """What pydantic prints when a check of `config` raises `words`."""
    begin = f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {config}"
    return begin, f"  Value error, {words} [type=value_error, input_value=ArgsKwargs((), {{'model': 'm'}}), input_type=ArgsKwargs]"


FOUND: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "a compiler too old, behind an advice on memory": (
        scheduler(
            *frame("sglang/jit_kernel/utils.py", "load_jit"), *NVCC, "", "During handling of the above exception, another exception occurred:", "",
            "Traceback (most recent call last):", *frame("sglang/srt/managers/scheduler.py", "run_scheduler_process"),
            "Exception: Capture cuda graph failed: " + NVCC[0].partition(": ")[2], *NVCC[1:], "", *HINTS,
        ),
        "nvcc-too-old", ("12.0", "too old"), ("memory",),
    ),
    "the same of vLLM": (core(*frame("flashinfer/jit/cpp_ext.py", "run_ninja"), *NVCC), "nvcc-too-old", ("12.0",), ("memory",)),
    "ninja not on PATH, as torch says it": (
        scheduler(*frame("torch/utils/cpp_extension.py", "verify_ninja_availability"), "RuntimeError: Ninja is required to load C++ extensions (pip install ninja to get it)"),
        "no-ninja", ("ninja", "PATH"), ("nvcc", "gcc"),
    ),
    "ninja not on PATH, as Python says it": (
        core(*frame("flashinfer/jit/cpp_ext.py", "run_ninja"), "FileNotFoundError: [Errno 2] No such file or directory: 'ninja'"), "no-ninja", ("ninja",), ("nvcc",)
    ),
    "a removed flag": ("usage: main.py serve [model_tag] [options]\nmain.py serve: error: unrecognized arguments: --enable-reasoning\n", "flag-enable-reasoning", ("removed",), ("spelling",)),
    "WSL": (core(*frame("vllm/v1/worker/gpu/buffer_utils.py", "__init__"), "RuntimeError: UVA is not available"), "wsl-uva", ("WSL",), ()),
    "no compiler": (
        core(*frame("triton/runtime/build.py", "_build"), "RuntimeError: Failed to find C compiler. Please specify via CC environment variable."), "no-c-compiler", ("gcc",), ()
    ),
    "headers of Python, said by gcc alone": (
        "main.c:5:10: fatal error: Python.h: No such file or directory\n    5 | #include <Python.h>\n      |          ^~~~~~~~~~\ncompilation terminated.\n"
        + core(*frame("triton/runtime/build.py", "_build"), "subprocess.CalledProcessError: Command '['/usr/bin/gcc', 'main.c', '-lcuda']' returned non-zero exit status 1."),
        "no-python-headers", ("headers",), ("C compiler (gcc",),
    ),
    "libcuda to link with": (
        "/usr/bin/ld: cannot find -lcuda: No such file or directory\ncollect2: error: ld returned 1 exit status\n"
        + core("subprocess.CalledProcessError: Command '['/usr/bin/gcc', 'main.c', '-lcuda']' returned non-zero exit status 1."),
        "no-libcuda-to-link", ("libcuda",), ("C compiler",),
    ),
    "FP8 on an older card": (
        core("triton.compiler.errors.CompilationError: at 1:0:", "def reshape_and_cache_kernel_flash(", "^", "ValueError(\"type fp8e4nv not supported in this architecture. The supported fp8 dtypes are ('fp8e4b15', 'fp8e5')\")"),
        "fp8-old-card", ("8.9", "kv_cache_dtype"), (),
    ),
    "a MIG slice by UUID": (
        "(APIServer pid=6) Traceback (most recent call last):\n(APIServer pid=6) ValueError: invalid literal for int() with base 10: 'MIG-1111-2222'\n",
        "visible-devices-uuid", ("MIG-1111-2222", "CUDA_VISIBLE_DEVICES"), (),
    ),
    "AWQ in bfloat16, behind pydantic": (
        "(APIServer pid=6) Traceback (most recent call last):\n(APIServer pid=6) pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "(APIServer pid=6)   Value error, torch.bfloat16 is not supported for quantization method awq. Supported dtypes: [torch.float16] [type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]\n"
        "(APIServer pid=6)     For further information visit https://errors.pydantic.dev/2.12/v/value_error\n",
        "quantisation-dtype", ("awq", "torch.float16"), ("validation",),
    ),
    "a parser in the other engine's spelling": (
        "(APIServer pid=6) Traceback (most recent call last):\n(APIServer pid=6) KeyError: \"Reasoning parser 'deepseek-r1' not found. Available parsers: deepseek_r1, qwen3\"\n",
        "reasoning-parser-name", ("deepseek-r1",), (),
    ),
    "a compatibility library on a card at home": (
        core("RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that might have already set an error? Error 804: forward compatibility was attempted on non supported HW"),
        "forward-compatibility", ("cuda-compat",), ("too old",),
    ),
    "the same, told by a warning beside": (
        "(EngineCore pid=7) UserWarning: CUDA initialization: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted on non supported HW\n"
        + core("RuntimeError: No CUDA GPUs are available"),
        "forward-compatibility-no-gpu", ("cuda-compat",), (),
    ),
    "torch's own port": (
        "[W421 10:10:12] [c10d] The server socket has failed to bind to 0.0.0.0:29500 (errno: 98 - Address already in use).\n"
        + core("torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"),
        "torch-port", ("29500", "not the port of the API"), ("choose another port",),
    ),
    "settings are no evidence": (
        core("torch.AcceleratorError: CUDA error: an illegal memory access was encountered", begin=["Initializing a V1 LLM engine with config: trust_remote_code=True, quantization=awq"]),
        "illegal-memory-access", ("kernel",), ("code of its own", "trust_remote_code"),
    ),
    "no GPU is visible": (core(*frame("torch/cuda/__init__.py", "_lazy_init"), "RuntimeError: No CUDA GPUs are available"), "no-gpu", ("CUDA_VISIBLE_DEVICES",), ("driver",)),
    "memory while layers are built": (core(*frame("vllm/model_executor/models/llama.py", "make_layers"), OOM), "memory-weights", ("weights do not fit",), ("Lower",)),
    "memory while weights are read": (core(OOM, begin=LOADING), "memory-weights", ("weights do not fit",), ("max_num_seqs",)),
    "memory while graphs are captured": (core(*frame("vllm/v1/worker/gpu_model_runner.py", "capture_model"), OOM, begin=LOADED), "memory-cache-vllm", ("KV cache",), ()),
    "memory while graphs are captured by SGLang": (
        scheduler(*frame("sglang/srt/model_executor/cuda_graph_runner.py", "capture"), OOM, begin=["Load weight end.", "Capture cuda graph begin."]),
        "memory-cache-sglang", ("share",), ("gpu_memory_utilization",),
    ),
    "memory while it serves": (core(OOM, begin=SERVING), "memory-serving", ("while requests were served",), ()),
    "NCCL that does not say why": (
        "(VllmWorkerProcess pid=761) ERROR 07-24 08:26:01 multiproc_worker_utils.py:226] Exception in worker while processing method init_device: x, Traceback (most recent call last):\n"
        "(VllmWorkerProcess pid=761) ERROR 07-24 08:26:01 multiproc_worker_utils.py:226]   File \"vllm/x.py\", in NCCL_CHECK\n"
        "[rank0]: RuntimeError: NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)\n",
        "nccl", ("NCCL",), ("disk", "ran out"),
    ),
    "NCCL without shared memory": (
        "[2026-06-06 09:52:01] node:15015:15202 [0] misc/shmutils.cc:129 NCCL WARN Error while creating shared memory segment /dev/shm/nccl-roxxN4 (size 33030528), error: No space left on device (28)\n"
        "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)\n",
        "shared-memory-nccl", ("/dev/shm", "33.0 MB"), ("disk",),
    ),
    "a locked database": (
        "INFO  [open_webui.env] begin\nTraceback (most recent call last):\n  File \"/env/lib/python3.12/site-packages/open_webui/internal/db.py\", line 9, in handle_peewee_migration\n"
        "    x()\npeewee.OperationalError: database is locked\n",
        "webui-locked", ("another process", "network disk"), (),
    ),
    "a gated model, not the broken line of a frame": (
        core(*frame("huggingface_hub/utils/_http.py", "hf_raise_for_status"), "OSError: You are trying to access a gated repo."), "model-gated", ("gated",), ()
    ),
    "killed by the system": (WRAPPER.replace("{}", "{'EngineCore': -9}"), "host-memory", ("memory", "killed"), ("gpu_memory_utilization",)),
    "a taken port, said without a traceback": (
        "INFO:     Application startup complete.\nERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use\nINFO:     Application shutdown complete.\n",
        "port-taken", ("8000",), (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_the_cause_is_named(name: str) -> None:
    log, kind, said, never = FOUND[name]
    verdict = explain_text(log)
    told = f"{verdict.cause} {verdict.fix}"
    assert verdict.id == kind
    assert all(word in told for word in said) and not any(word in told for word in never)
    assert verdict.words and verdict.causes.zh and verdict.fixes.zh


UNKNOWN = {
    "an assertion without a message shows its statement": (
        core("Traceback (most recent call last):", *frame("vllm/v1/core/block_pool.py", "free", "assert block.block_hash is None"), "AssertionError"),
        "AssertionError: assert block.block_hash is None",
    ),
    "a long message is whole": (core("Traceback (most recent call last):", "ValueError: first", "second", "", "last of it"), "ValueError: first\nsecond\n\nlast of it"),
    "a hint at remote code is no evidence": (core("Traceback (most recent call last):", "KeyError: 'set trust_remote_code=True or add it'"), "KeyError: 'set trust_remote_code=True or add it'"),
    "the port of somebody else": (
        core("Traceback (most recent call last):", "ConnectionError: HTTPConnectionPool(host='collector', port=4318): Max retries exceeded with url: /v1/traces"),
        "ConnectionError: HTTPConnectionPool(host='collector', port=4318): Max retries exceeded with url: /v1/traces",
    ),
    "a number that is empty": (core("Traceback (most recent call last):", *frame("a.py", "f", "int(os.environ['LOCAL_RANK'])"), "ValueError: invalid literal for int() with base 10: ''"), "ValueError: invalid literal for int() with base 10: ''"),
    "a wrapper alone": (WRAPPER, "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"),
    "a time-out": (core("Traceback (most recent call last):", "zmq.error.Again: Resource temporarily unavailable"), "Again: Resource temporarily unavailable"),
    "a kernel that nobody can name": (core("torch.AcceleratorError: CUDA error: operation failed due to a previous error during capture"), "AcceleratorError: CUDA error: operation failed due to a previous error during capture"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_said_to_be_unknown_and_shown_whole(name: str) -> None:
    log, words = UNKNOWN[name]
    verdict = explain_text(log)
    assert verdict.found and not verdict.known and not verdict.cause and not verdict.fix
    assert verdict.words == words
    text = verdict.text("en")
    assert "does not know this failure" in text and all(line in text for line in words.splitlines()) and f"line {verdict.number}" in text


GOOD = {
    "a warning that names a failure": "(EngineCore pid=7) WARNING 11-26 10:00:00 [x.py:1] Traceback (most recent call last):\n"
    "(EngineCore pid=7) WARNING 11-26 10:00:00 [x.py:1] OSError: [Errno 28] No space left on device\n",
    "a module that is not needed": "[2026-11-21 09:33:42 pid 750] Ignore import error when loading sglang.srt.models.x: No module named 'vllm'\n",
    "settings": "(APIServer pid=6) INFO 11-26 10:00:00 [utils.py:1] non-default args: {'trust_remote_code': True, 'reason': 'ValueError: x'}\n",
    "advice on memory": "(EngineCore pid=7) INFO 11-26 10:00:00 [x.py:1] If you see CUDA out of memory, lower gpu_memory_utilization\n",
    "an error that its process outlived": "(EngineCore pid=7) ERROR 11-26 10:00:00 [usage.py:1] Traceback (most recent call last):\n"
    '(EngineCore pid=7) ERROR 11-26 10:00:00 [usage.py:1]   File "a.py", line 1, in f\n'
    "(EngineCore pid=7) ERROR 11-26 10:00:00 [usage.py:1] TimeoutError: nobody answered\n"
    "(EngineCore pid=7) INFO 11-26 10:00:01 [core.py:1] KV cache size: 7 tokens\n(APIServer pid=6) INFO:     Application startup complete.\n"
    "(EngineCore pid=7) INFO 11-26 10:00:02 [core.py:1] Engine 000: Avg prompt throughput: 1.0 tokens/s\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_start_has_no_failure(name: str) -> None:
    verdict = explain_text(GOOD[name])
    assert not verdict.found and not verdict.cause and "no failure" in str(verdict)


def test_of_two_starts_in_one_file_the_last_counts() -> None:
    first = core("Traceback (most recent call last):", "OSError: [Errno 98] Address already in use", begin=["begin"])
    banner = "(APIServer pid={}) INFO 11-26 1{}:00:00 [api_server.py:1] vLLM API server version 0.26.0\n"
    second = (
        core("Traceback (most recent call last):", "RuntimeError: Cannot find any model weights with `/m`")
        .replace("pid=7", "pid=97")
        .replace("pid=6", "pid=96")
    )
    assert explain_text(banner.format(6, 0) + first + banner.format(96, 1) + second).id == "no-weights"
    assert explain_text(banner.format(6, 0) + first + banner.format(96, 1)).id == "port-taken"
    third = "[2026-11-26 12:00:00] server_args=ServerArgs(model_path='m')\n" + scheduler("RuntimeError: UVA is not available")
    assert explain_text(banner.format(6, 0) + first + third).id == "wsl-uva"


def test_of_two_processes_the_one_that_failed_first_counts() -> None:
    late = "(Worker_TP1 pid=9) ERROR 11-26 10:00:05 [w.py:1] RuntimeError: something came of it\n"
    early = "(Worker_TP0 pid=8) ERROR 11-26 10:00:02 [w.py:1] OSError: [Errno 24] Too many open files\n"
    reset = "(Worker_TP2 pid=4) ERROR 11-26 10:00:01 [w.py:1] ConnectionResetError: [Errno 104] Connection reset by peer\n"
    assert {explain_text(text).id for text in (late + early, early + late, reset + late + early)} == {"too-many-files"}


def test_both_logs_of_a_server_are_read_and_the_right_one_is_named(tmp_path: Path) -> None:
    out, err = tmp_path / "1.out.log", tmp_path / "1.err.log"
    out.write_text(
        "(EngineCore pid=7) INFO 11-26 10:00:00 [core.py:1] begin\n(EngineCore pid=7) ERROR 11-26 10:00:09 [core.py:1] RuntimeError: UVA is not available\n"
    )
    err.write_text(WRAPPER)
    assert explain_files([out, err]).place == f"{out}:2"
    err.write_text("\nTraceback (most recent call last):\nModuleNotFoundError: No module named 'flash_attn'\n")
    out.write_text("")
    assert explain_files([out, err, tmp_path / "none.log"]).place == f"{err}:3"


def test_labkit_explain_takes_a_file_or_a_text(tmp_path: Path) -> None:
    log = tmp_path / "of a colleague.log"
    log.write_text(core("RuntimeError: UVA is not available"))
    for given in (log, str(log), log.read_text()):
        verdict = labkit.explain(given)
        assert isinstance(verdict, Verdict) and verdict.id == "wsl-uva"
    assert "原因" in labkit.explain(log, language="zh").text("zh") and "cause" not in labkit.explain(log).text("zh")
    assert "cause" in str(labkit.explain(log)) and "原因" in str(labkit.explain(log))
    for wrong in (tmp_path / "none.log", str(tmp_path / "none.log"), tmp_path, 7):
        with pytest.raises(SettingError):
            labkit.explain(wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="language"):
        labkit.explain(log, language="fr")
    (tmp_path / "empty.log").write_text("")
    assert "is empty" in str(explain(tmp_path / "empty.log"))


def test_the_word_of_lab(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "vllm.log"
    log.write_text(core(OOM, begin=LOADED))
    assert cli.main(["explain", str(log), "--language", "en"]) == 0
    told = capsys.readouterr().out
    assert "`--max-num-seqs`" in told and "`--enforce-eager`" in told and f"{log}:4" in told and "原因" not in told
    monkeypatch.setattr("sys.stdin", io.StringIO(log.read_text()))
    assert cli.main(["explain", "-", "--language", "zh"]) == 0
    assert "原因：" in capsys.readouterr().out


def test_flags_are_named_as_they_were_given() -> None:
    text = 'Lower `max_model_len`, `kv_cache_dtype="fp8"`, `tensor_parallel_size`; `labkit.verify(x)`, `NCCL_DEBUG=INFO`.'
    assert (
        as_flags(text)
        == "Lower `--max-model-len`, `--kv-cache-dtype fp8`, `--tensor-parallel-size`; `labkit.verify(x)`, `NCCL_DEBUG=INFO`."
    )
    assert as_flags(text, ["--max_model_len", "9", "-tp=2"]).startswith("Lower `--max_model_len`, `--kv-cache-dtype fp8`, `-tp`")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (core(*NVCC), "nvcc fatal   : Unsupported gpu architecture 'compute_120a'"),
        (scheduler(*NVCC), "nvcc fatal   : Unsupported gpu architecture 'compute_120a'"),
        (core(*refused("VllmConfig", AWQ)), AWQ),
        (core(*refused("ModelConfig", QWEN9)), QWEN9),
        (
            core(
                "triton.compiler.errors.CompilationError: at 1:0:",
                "def kernel(",
                "^",
                'ValueError("type fp8e4nv not supported in this architecture.")',
            ),
            'ValueError("type fp8e4nv not supported in this architecture.")',
        ),
        (core("RuntimeError: UVA is not available"), "RuntimeError: UVA is not available"),
    ],
)
def test_the_line_that_is_shown_is_the_one_that_tells(text: str, line: str) -> None:
    verdict = explain_text(text)
    assert verdict.known and verdict.telling == line


@pytest.mark.parametrize("name", ["deepseek-r1", "qwen-3", "r1"])
def test_the_quotes_of_a_key_error_are_no_part_of_what_it_lists(name: str) -> None:
    verdict = explain_text(core(f"KeyError: \"Reasoning parser '{name}' not found. Available parsers: deepseek_r1, qwen3\""))
    assert verdict.fixes.en.endswith("These are there: deepseek_r1, qwen3.") and f"It was {name}." in verdict.causes.en


def test_a_message_of_a_running_server_is_looked_up() -> None:
    assert explain_message("LoRA rank 64 is greater than max_lora_rank 16.", engine="vllm").id == "lora-rank-vllm"
    assert "without LoRA" in explain_message("LoRA is not enabled. Please set `--enable-lora` to enable LoRA.", engine="sglang").cause
    assert not explain_message("some other answer", engine="vllm").known


def test_a_log_that_breaks_off_in_a_traceback_is_told_as_that() -> None:
    verdict = explain_text(
        '(EngineCore pid=7) ERROR 11-26 10:00:09 [core.py:1] Traceback (most recent call last):\n(EngineCore pid=7) ERROR 11-26 10:00:09 [core.py:1]   File "a.py", line 1, in f\n'
    )
    assert verdict.found and not verdict.known and "breaks off inside a traceback" in verdict.text("en")
