"""The paper's comparison in miniature: deformable kernels and their rivals, on handwritten digits.

    python -m benchmarks.study

trains what is missing in benchmarks/results/study_*.json, and `python -m benchmarks.study.report`
prints and draws what is there.
"""
