"""Exactness kit: tabular language models on the real engine, and the complete output law of any search.

    model = tabular_model(vocabulary=3, seed=1)
    law = output_law(model, "a", lambda prompt: best_of_n(prompt, reward=reward, n=2), max_tokens=3)

`law` maps every answer (a tuple of token ids) to its probability, exact to rounding: the random source
visits every outcome of every draw and multiplies probabilities instead of drawing.
"""

from ramify.exact.chi_square import chi_square
from ramify.exact.enumerate import Branches, enumerate_law, output_law
from ramify.exact.laws import best_of_n_law, distance, policy_law
from ramify.exact.tabular import tabular_model, tabular_reward

__all__ = ["Branches", "best_of_n_law", "chi_square", "distance", "enumerate_law", "output_law", "policy_law",
           "tabular_model", "tabular_reward"]
