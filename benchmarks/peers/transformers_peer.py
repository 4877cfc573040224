"""Hugging Face transformers: `generate`, which reads the prompt once for every sample.

Variants: fp32, and bf16.
"""

from __future__ import annotations

import torch
import transformers
from protocol import Generate, Job, serve


def load(job: Job) -> Generate:
    """`generate` with `num_return_sequences`."""
    torch.set_num_threads(job["threads"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job["variant"]]
    model = transformers.AutoModelForCausalLM.from_pretrained(job["folder"], dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor(job["prompts"])

    def generate(tokens: int) -> int:
        torch.manual_seed(0)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
                             top_p=1.0, num_return_sequences=job["samples"], max_new_tokens=tokens, pad_token_id=0)
        return int(out.shape[0] * (out.shape[1] - ids.shape[1]))

    return generate


if __name__ == "__main__":
    serve(load, lambda: {"transformers": transformers.__version__, "torch": torch.__version__})
