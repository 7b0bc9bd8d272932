#!/usr/bin/env bash
# Make the reports of this directory, or those that are named: reports/make.sh speed int8
# One at a time, on a machine that does nothing else. README.md beside this file says what each is.
set -euo pipefail
cd "$(dirname "$0")/.."
harness=.venv/bin/harness

# bench NAME OPTION...: a benchmark as run file, page, tables and lines. Status 1 says that a row is missing: the report
# says which, and why.
bench() {
    local name=reports/$1
    shift
    "$harness" bench "$@" --out "$name.jsonl" --html "$name.html" --markdown "$name.md" --csv "$name.csv" ||
        [ $? -eq 1 ]
}

has_llama_cpp() {
    [ -n "${LLAMA_CPP_PYTHON:-}" ] && return
    echo "reports/make.sh: left out: LLAMA_CPP_PYTHON names no python with llama-cpp-python" >&2
    return 1
}

make_report() {
    case $1 in
    speed)
        # The budget has the runs of 110M shortened until five rounds fit.
        bench speed --models 260K,15M,42M,110M --rounds 5 --budget 1500 \
            --impls c,zig,napi-simd,blas,ts-wasm,napi,c-strict,ts,c-plain,numpy
        "$harness" report --readme README.md reports/speed.jsonl
        ;;
    level) bench level --models 15M,42M --impls c,zig,napi-simd --rounds 25 ;;
    contexts) bench contexts --models 42M --impls c,zig,napi-simd,numpy --rounds 3 --contexts 64,256,512,1024 ;;
    int8) bench int8 --models 15M,42M,110M --impls c,zig --precision f32,q8 --rounds 5 ;;
    threads) bench threads --models 42M,110M --impls c,zig --threads 1,2 --rounds 5 --budget 420 ;;
    large)
        # 7B in float32 is 27 GB: where memory does not hold it, each token reads it from the disk.
        bench large-1B --models 1B --impls c,zig --precision f32,q8 --rounds 5 --budget 600
        bench large-7B --models 7B --impls c --precision q8 --rounds 3 --budget 300
        bench large-7B-f32 --models 7B --impls c --precision f32 --rounds 1
        "$harness" report reports/large-1B.jsonl reports/large-7B.jsonl reports/large-7B-f32.jsonl \
            --html reports/large.html --markdown reports/large.md --csv reports/large.csv
        ;;
    reference) "$harness" bench --self --json reports/reference.json ;;
    calibration)
        # The JSON file has the series too; the run file is left where it is not in the way.
        "$harness" bench --calibrate --models 260K --impls c --rounds 2000 --json reports/calibration.json
        ;;
    conformance)
        "$harness" check --suite core,tinystories --out reports/conformance.jsonl || [ $? -eq 1 ]
        "$harness" report reports/conformance.jsonl --html reports/conformance.html --markdown reports/conformance.md
        ;;
    selftest)
        # Interrupted it goes on where it was; the parts of docs/selftest.md can be run by themselves.
        "$harness" selftest --out harness-selftest.jsonl --resume --json reports/selftest.json \
            --markdown reports/selftest.md || [ $? -eq 1 ]
        rm harness-selftest.jsonl
        ;;
    fuzz)
        # Every level that each claims, text and traces of one model in ten; then what the programs print that start
        # at once.
        "$harness" fuzz all --minutes 240 --minutes-each 60 --models 10000 --jobs 2 --json reports/fuzz.json ||
            [ $? -eq 1 ]
        "$harness" fuzz c c-q8 zig zig-q8 --level TEXT --minutes 120 --models 10000 --jobs 2 \
            --json reports/fuzz-text.json || [ $? -eq 1 ]
        ;;
    llama-cpp)
        if has_llama_cpp; then
            .venv/bin/python tools/llama_cpp_agreement.py --json reports/llama-cpp.json --markdown reports/llama-cpp.md
        fi
        ;;
    int8-llama-cpp)
        if has_llama_cpp; then
            bench int8-llama-cpp --models 15M,42M,110M --impls c,llama-cpp --precision f32,q8 --rounds 7 --budget 900
        fi
        ;;
    *)
        echo "reports/make.sh: no report is called $1; see reports/README.md" >&2
        exit 2
        ;;
    esac
}

reports="speed level contexts int8 threads large reference calibration conformance selftest fuzz llama-cpp int8-llama-cpp"
for name in "${@:-$reports}"; do
    for one in $name; do
        make_report "$one"
    done
done
