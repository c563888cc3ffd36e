"""The paper's comparison in miniature: deformable kernels and their rivals, on handwritten digits.

    python -m benchmarks.study

trains what is missing in benchmarks/results/study_*.json, network by network, and
`python -m benchmarks.study.report` writes tables and plots of what is there.
"""
