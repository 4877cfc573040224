"""Workloads and reports: what a method wins and what it costs, by one command.

questions   what is asked and how an answer is judged
run         methods over questions: one row per answer, kept in a file and resumed
compare     pure functions: compute to reach a goal, win rate at equal generated tokens
report      rows to one summary
table       the summary for a terminal
plot, page  the summary as a picture and as one self-contained HTML page
"""
