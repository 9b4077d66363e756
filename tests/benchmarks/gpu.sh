#!/bin/sh
# Everything that hinges on a GPU, in one go of less than ten minutes: `sh tests/benchmarks/gpu.sh` in the checkout.
# Appends to tests/benchmarks/results.jsonl; where OUT names a folder, the new lines and what was printed go there too.
set -u
out=${OUT:-$(mktemp -d)}
python=${PYTHON:-python3}
results=tests/benchmarks/results.jsonl
before=$(wc -l < "$results")

measure() {  # seconds, then the benchmark and its options; one that fails or hangs does not cost the others
    limit=$1; shift
    echo "== $*"
    timeout "$limit" "$python" -m "tests.benchmarks.$@" || echo "== $1 ended with $?"
    tail -n "+$((before + 1))" "$results" > "$out/results.jsonl"
}

{
    "$python" -c "import torch; print(torch.__version__, torch.cuda.get_device_name())"
    measure 120 training steps --steps 20 --repeats 3
    measure 60 training augmentation
    measure 60 predict
    measure 60 training pause
    measure 140 training steps --backbone resnet50 --steps 20 --repeats 2 --compile
} 2>&1 | tee "$out/log"
