"""Closed forms: what a search costs and what it can win, from numbers alone.

Numbers in, numbers out; nothing here knows a model, a tokenizer or the rest of the package. One file per
topic:

law                    a finite law of rewards, the input of most formulas
best_of_n              output law, reward, KL and win rate of Best-of-N; estimators from samples
speculative_rejection  decision times, live counts and tokens
treebon                tokens per layer, the law with one survivor, a bound on KL
tilt                   the optimum at a given KL, soft Best-of-n
voting                 the law of a majority vote
calibration            calibrated rewards and the Best-of-N-aware transform
intervals              Wilson and bootstrap intervals
cost                   FLOPs from tokens and parameters

A number out of range raises `checks.OutOfRange`, a ValueError that says what was needed, what it got and what
to do.
"""
