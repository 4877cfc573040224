"""vLLM on the CPU, in process; its prefix cache shares full blocks of the prompt among samples.

Variants: fp32, and bf16.
"""

from __future__ import annotations

import os

from protocol import Generate, Job, serve

CACHE_GB = 2


def load(job: Job) -> Generate:
    """`LLM.generate` over token ids."""
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": f"0-{job['threads'] - 1}", "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GB),
                   "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    from vllm import LLM, SamplingParams, TokensPrompt

    positions = len(job["prompts"][0]) + job["tokens"]
    llm = LLM(job["folder"], dtype={"fp32": "float32", "bf16": "bfloat16"}[job["variant"]], max_model_len=positions,
              max_num_seqs=256, enable_prefix_caching=job["samples"] > 1)
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in job["prompts"]]

    def generate(tokens: int) -> int:
        llm.reset_prefix_cache()  # every run reads its prompts
        params = SamplingParams(n=job["samples"], max_tokens=tokens, min_tokens=tokens, ignore_eos=True,
                                temperature=1.0, detokenize=False)
        answers = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(sample.token_ids) for answer in answers for sample in answer.outputs)

    return generate


def versions() -> dict[str, str]:
    """Of what ran."""
    import torch
    import vllm

    return {"vllm": vllm.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    serve(load, versions)
