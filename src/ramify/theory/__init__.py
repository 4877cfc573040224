"""Closed forms: what a search costs and what it can win, from numbers alone.

Numbers in, numbers out; nothing here knows a model, a tokenizer or the rest of the package. One file per
topic:

law                    a finite law of rewards, the input of most formulas
best_of_n              output law, reward, KL and win rate of Best-of-N; estimators from samples
speculative_rejection  decision times, live counts and tokens
speculative            expected rejections of a draft, one or several; lossy acceptance; tilted targets
speculative_drafts     which verifier accepts most: chains, and several drafts for one position
speculative_cost       tokens per target call, speed-ups, the best draft length, the stopping problem
treebon                tokens per layer, the law with one survivor, a bound on KL
tilt                   the optimum at a given KL, soft Best-of-n
voting                 the law of a majority vote
calibration            calibrated rewards and the Best-of-N-aware transform
intervals              Wilson and bootstrap intervals
cost                   FLOPs from tokens and parameters
step_cost              seconds of a model's forward, fitted to measured ones: the idealized runtime

A number out of range raises `checks.OutOfRange`, a ValueError that says what was needed, what it got and what
to do.
"""
