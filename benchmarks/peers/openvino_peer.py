"""OpenVINO GenAI: its continuous batching pipeline, which shares the prompt's cache among samples.

Variants: fp32, and int8 (weights of 8 bits, compressed when the model is converted; activations as the runtime picks).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from protocol import Generate, Job, serve

CACHE_GB = 2


def converted(job: Job) -> Path:
    """Where the model lies in OpenVINO's own format: beside the original."""
    folder = Path(job["folder"])
    return folder.with_name(f"{folder.name}-openvino-{job['variant']}")


def prepare(job: Job) -> None:
    """Convert the model, once."""
    made = converted(job)
    if (made / "openvino_detokenizer.xml").is_file():  # written last
        return
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import AutoTokenizer

    how = ({"quantization_config": OVWeightQuantizationConfig(bits=8)} if job["variant"] == "int8"
           else {"load_in_8bit": False})
    OVModelForCausalLM.from_pretrained(job["folder"], export=True, compile=False, **how).save_pretrained(made)
    both = convert_tokenizer(AutoTokenizer.from_pretrained(job["folder"]), with_detokenizer=True)
    for name, model in zip(("tokenizer", "detokenizer"), both, strict=True):
        openvino.save_model(model, made / f"openvino_{name}.xml")


def load(job: Job) -> Generate:
    """A pipeline that takes token ids."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_batched_tokens, scheduler.max_num_seqs = CACHE_GB, 4096, 256
    scheduler.enable_prefix_caching = False  # every run reads its prompts
    wanted = {"INFERENCE_NUM_THREADS": job["threads"], "PERFORMANCE_HINT": "LATENCY"}
    if job["variant"] == "fp32":
        wanted["INFERENCE_PRECISION_HINT"] = "f32"
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(converted(job)), scheduler, "CPU", wanted)
    prompts = [openvino.Tensor(np.array([ids], dtype=np.int64)) for ids in job["prompts"]]

    def generate(tokens: int) -> int:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos, config.apply_chat_template = True, False
        config.do_sample, config.temperature, config.top_p, config.top_k = True, 1.0, 1.0, 0
        config.num_return_sequences, config.rng_seed = job["samples"], 1
        answers = pipeline.generate(prompts, [config] * len(prompts))
        return sum(len(ids) for answer in answers for ids in answer.m_generation_ids)

    return generate


if __name__ == "__main__":
    serve(load, lambda: {"openvino": openvino.__version__, "openvino_genai": openvino_genai.__version__}, prepare)
