"""The student's engine: vLLM processes, their weights, and the check that what is served is what was trained.

Importing this package, or any module of it, loads neither torch nor transformers nor vllm.
"""
