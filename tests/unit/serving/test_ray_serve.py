"""The configuration for Ray Serve LLM, read by Ray's own classes."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from serving.ray_serve import application, engine_kwargs
from serving.settings import StudentSettings

READ = """
import json, sys
from ray.serve.llm import LLMServingArgs, build_openai_app
from ray.serve.schema import ServeDeploySchema
(app,) = ServeDeploySchema.model_validate(json.load(sys.stdin)).applications
(model,) = LLMServingArgs.model_validate(app.args).llm_configs
module, _, name = app.import_path.partition(":")
assert getattr(sys.modules[module], name) is build_openai_app
engine = model.get_engine_config()
print(json.dumps({
    "model": model.model_id, "source": engine.actual_hf_model_id, "gpu": model.accelerator_type,
    "devices": engine.num_devices, "engine": model.engine_kwargs,
    "replicas": model.deployment_config["autoscaling_config"],
}))
"""
"""In a process of its own: it loads vLLM."""


@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("ray") is None or find_spec("grpc_reflection") is None, reason="needs Ray Serve LLM")
def test_ray_reads_the_release_its_engine_and_its_replicas(tmp_path: Path):
    settings = StudentSettings(
        model="ours", context_tokens=4096, tensor_parallel=2, engine_args=("--gpu-memory-utilization", "0.45")
    )
    told = json.dumps(application(settings, tmp_path, (1, 4), "L4"))
    ran = subprocess.run([sys.executable, "-c", READ], input=told, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["model"], found["source"]) == ("ours", str(tmp_path))
    assert (found["gpu"], found["devices"]) == ("L4", 2)
    assert (found["replicas"]["min_replicas"], found["replicas"]["max_replicas"]) == (1, 4)
    assert found["engine"].items() >= {"max_model_len": 4096, "gpu_memory_utilization": 0.45}.items()


def test_flags_of_the_command_line_have_their_names_in_python():
    words = ["--max-num-seqs=32", "--enable-prefix-caching", "--no-enable-log-requests", "--quantization", "fp8"]
    assert engine_kwargs([*words, "--override-generation-config", '{"top_k": 5}']) == {
        "max_num_seqs": 32,
        "enable_prefix_caching": True,
        "enable_log_requests": False,
        "quantization": "fp8",
        "override_generation_config": {"top_k": 5},
    }
    with pytest.raises(ValueError, match="'32' is neither a flag nor the value of one"):
        engine_kwargs(["--no-enable-log-requests", "32"])


def test_without_a_type_of_gpu_ray_takes_any():
    (app,) = application(StudentSettings(), Path("/releases/r1/student"), (1, 1), None)["applications"]
    assert "accelerator_type" not in app["args"]["llm_configs"][0]
