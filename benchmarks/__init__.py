"""Scripts that measure, and the JSON files and tables that the docs quote. Run them from the repository's root.

python -m benchmarks.layer_cost          one layer against BatchNorm, SE, GroupNorm and the released formulation
python -m benchmarks.network_cost        ResNet-50 with BatchNorm, with AN, with SE
python -m benchmarks.gpu                 both on a CUDA device, with the kernels alone and joules per image
python -m benchmarks.performance_table   the tables of docs/performance.md from the JSON files
python -m benchmarks.check               fails where the layer became slower than the committed figures
"""
