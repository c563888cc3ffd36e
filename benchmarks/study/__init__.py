"""The paper's comparison in miniature: deformable kernels and their rivals, on handwritten digits.

    python -m benchmarks.study

trains what is missing in benchmarks/results/study_*.json, `python -m benchmarks.study.cost`
measures costs, and `python -m benchmarks.study.report` writes the tables and pictures of
docs/study.md.
"""
