"""tools/cuda_check.py: what it reads, what it refuses, and that planted errors are refused."""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_check
import pytest
from cuda_kernels import compiling, inspection, listings, toolkit
from cuda_kernels import table as kernel_table

SCRIPT = Path(__file__).resolve().parent.parent / 'tools' / 'cuda_check.py'


# what ptxas and nvdisasm say

PTXAS = """\
ptxas info    : 28 bytes gmem, 224 bytes cmem[4]
ptxas info    : Compiling entry function '_Z5scaleIfLi4EEvPKT_PS0_i' for 'sm_80'
ptxas info    : Function properties for _Z5scaleIfLi4EEvPKT_PS0_i
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 1 barriers, 512 bytes smem, 384 bytes cmem[0]
ptxas info    : Compile time = 1.057 ms
ptxas info    : Function properties for _Z6helperf
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
"""
SASS = """\
//--------------------- .text._Z5scaleIfLi4EEvPKT_PS0_i   --------------------------
	.section	.text._Z5scaleIfLi4EEvPKT_PS0_i,"ax",@progbits
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/               @P0 EXIT ;
        /*0020*/              @!UP1 LDG.E.128.CONSTANT R4, [R4.64] ;
.L_x_0:
        /*0030*/                   BRA `(.L_x_0);
        /*0040*/                   NOP;
"""


def test_ptxas_output_is_read_by_function():
    usages = listings.parse_ptxas(PTXAS)
    assert usages == {
        '_Z5scaleIfLi4EEvPKT_PS0_i': listings.Usage(0, 0, 0, registers=14, shared_bytes=512),
        '_Z6helperf': listings.Usage(8, 4, 12),
    }
    assert compiling.messages(PTXAS) == []


def test_all_else_that_nvcc_prints_is_a_message():
    warning = 'a.cu(3): warning #177-D: variable "x" was declared but never referenced'
    assert compiling.messages(f'{PTXAS}{warning}\n  int x;\n') == [f'{warning}\n  int x;']
    ptxas = 'ptxas warning : setmaxnreg ignored'
    assert compiling.messages(f'{PTXAS}{ptxas}\n') == [ptxas]


def test_instructions_are_counted_without_padding():
    codes = ['MOV', 'EXIT', 'LDG.E.128.CONSTANT', 'BRA']
    assert listings.parse_sass(SASS) == {'_Z5scaleIfLi4EEvPKT_PS0_i': codes}
    usage = listings.Usage(registers=14, shared_bytes=512)
    row = inspection.row('a.cu', 'scale<float, 4>', 80, usage, codes)
    assert row == inspection.Row('a.cu', 'scale<float, 4>', 80, 14, 512, 4, 1, 0, 0)


@pytest.mark.parametrize(
    'demangled, name',
    [
        ('scatter(float*, int)', 'scatter'),
        ('void mmdk::cuda::(anonymous namespace)::a<float, 4>(float const*, int)', 'a<float, 4>'),
        ('void mmdk::cuda::a<c10::Half, (mmdk::cuda::Look)1>(void (*)(int))', 'a<Half, (Look)1>'),
        ('void a<(anonymous namespace)::Sink<double> >()', 'a<Sink<double> >'),
    ],
)
def test_kernels_are_named_without_result_parameters_and_namespaces(demangled, name):
    assert listings.readable(demangled) == name


# rules


def problems_of(name='scale<float, 4>', codes=('EXIT',), **usage):
    return inspection.refused(name, listings.Usage(**{'registers': 9, **usage}), list(codes))


@pytest.mark.parametrize('usage', [{'stack': 8}, {'spill_stores': 4}, {'spill_loads': 4}])
def test_spills_are_refused(usage):
    (problem,) = problems_of(**usage)
    assert re.match(r'\d bytes of (stack frame|spill stores|spill loads);', problem)


@pytest.mark.parametrize(
    'code',
    [
        *('DADD', 'DMUL', 'DFMA', 'DSETP.GT.AND', 'DMNMX', 'DMMA.884', 'MUFU.RCP64H'),
        *('F2F.F64.F32', 'F2F.F32.F64', 'I2F.F64', 'F2I.S64.F64.TRUNC', 'FRND.F64.FLOOR'),
        'RED.E.ADD.F64.RN.STRONG.GPU',
    ],
)
def test_double_precision_is_for_kernels_of_doubles(code):
    for name in ('scatter<float, 4>', 'scatter<Half>', 'double_scatter', 'scatter<Doubled>'):
        (problem,) = problems_of(name, codes=[code, 'EXIT'])
        assert f'1 {code} in double precision' in problem
    assert not problems_of('scatter<double, 2>', codes=[code])
    assert not problems_of('scatter<float, Sum<double> >', codes=[code])


@pytest.mark.parametrize(
    'code',
    [
        *('RED.E.ADD.F32.FTZ.RN.STRONG.GPU', 'REDG.E.ADD.F32', 'ATOM.E.ADD', 'ATOMG.E.CAS'),
        *('ATOMS.ADD', 'UBLKRED.G.S.ADD'),
    ],
)
def test_atomics_are_for_kernels_named_for_them(code):
    for name in ('gather<float>', 'gather<scatter<float> >', 'gather'):
        (problem,) = problems_of(name, codes=[code, code, 'EXIT'])
        assert problem.startswith(f'2 {code}, atomic')
    for name in ('input_gradient_scatter<float>', 'atomic_sum'):
        assert not problems_of(name, codes=[code])


@pytest.mark.parametrize(
    'code', ['I2F.S64.RP', 'F2I.FTZ.U32', 'REDUX.SUM', 'LDG.E.64', 'DEPBAR.LE', 'HFMA2.MMA', 'FADD']
)
def test_what_only_looks_like_it_is_not_refused(code):
    assert not problems_of(codes=[code])


def test_function_that_was_not_inlined_is_refused():
    (problem,) = problems_of('helper', registers=None)
    assert 'not inlined' in problem


def test_kernel_that_nvdisasm_does_not_show_is_refused():
    (problem,) = problems_of(codes=[])
    assert 'no instructions' in problem


def test_kernels_of_one_name_are_refused():
    row = inspection.Row('a.cu', 'scale', 80, 1, 2, 3, 4, 5, 6)
    (problem,) = kernel_table.same_names([row, row])
    assert problem.startswith('a.cu: scale, sm_80: several kernels')


# the table


@pytest.fixture
def tools():
    return toolkit.Tools('nvcc', '13.0.88', 'nvdisasm', 'c++filt')


@pytest.fixture
def rows():
    return [
        inspection.Row(file, kernel, sm, 40, 0, 200, 2, 0, 0)
        for file, kernel in [('a.cu', 'a<float, 4>'), ('b.cu', 'b')]
        for sm in (75, 80)
    ]


def task(*sources, architectures=(75, 80), everything=False):
    return compiling.Task([Path(name) for name in sources], list(architectures), [], everything)


@pytest.fixture
def table(tools, rows, tmp_path):
    path = tmp_path / 'kernels.json'
    kernel_table.update(path, rows, task('a.cu', 'b.cu', everything=True), tools)
    return path


def replaced(row, **fields):
    return dataclasses.replace(row, **fields)


def test_table_has_a_line_for_each_kernel_and_architecture(table):
    lines = [line for line in table.read_text().splitlines() if '"kernel":' in line]
    assert len(lines) == 4
    assert '"kernel": "a<float, 4>", "sm": 75, "registers": 40, ' in lines[0]


def test_same_numbers_as_in_the_table_pass(tools, rows, table):
    assert not kernel_table.compare(table, rows, task(everything=True), tools)


@pytest.mark.parametrize('field', ['registers', 'shared_bytes', 'instructions'])
def test_each_difference_to_the_table_is_named(tools, rows, table, field):
    rows[1] = replaced(rows[1], **{field: 41})
    before = getattr(rows[0], field)
    problem, advice = kernel_table.compare(table, rows, task(everything=True), tools)
    assert problem == (
        f'a.cu: a<float, 4>, sm_80: {field.replace("_", " ")}: 41, in the table {before}'
    )
    assert 'CUDA_CHECK_ARGS=--update' in advice


def test_kernels_that_came_and_went_are_named(tools, rows, table):
    rows[0] = replaced(rows[0], kernel='new')
    came, went, _ = kernel_table.compare(table, rows, task(everything=True), tools)
    assert came == 'a.cu: new, sm_75: is not in the table'
    assert went == 'a.cu: a<float, 4>, sm_75: in the table, but not compiled'


def test_only_what_was_compiled_is_compared(tools, rows, table):
    assert not kernel_table.compare(table, rows[:1], task('a.cu', architectures=[75]), tools)


def test_numbers_of_another_nvcc_are_not_compared_but_names_are(rows, table, capsys):
    newer = toolkit.Tools('nvcc', '13.4.1', 'nvdisasm', 'c++filt')
    rows = [replaced(row, registers=99) for row in rows]
    assert not kernel_table.compare(table, rows, task(everything=True), newer)
    assert 'NOT compared' in capsys.readouterr().out
    assert kernel_table.compare(table, rows[1:], task(everything=True), newer)


def test_missing_table_is_an_error(tools, rows, tmp_path):
    (problem,) = kernel_table.compare(tmp_path / 'no.json', rows, task(everything=True), tools)
    assert 'there is no' in problem
    assert '--update' in problem


def test_update_of_one_file_keeps_the_lines_of_others(tools, rows, table):
    new = replaced(rows[0], registers=10)
    kernel_table.update(table, [new], task('a.cu', architectures=[75]), tools)
    assert not kernel_table.compare(table, [new, *rows[1:]], task(everything=True), tools)


def test_update_does_not_mix_releases(rows, table):
    newer = toolkit.Tools('nvcc', '13.4.1', 'nvdisasm', 'c++filt')
    with pytest.raises(SystemExit, match=r'nvcc 13\.0\.88 .* this is nvcc 13\.4\.1'):
        kernel_table.update(table, rows[:1], task('a.cu', architectures=[75]), newer)


# the command


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, SCRIPT, *(str(argument) for argument in arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_missing_nvcc_is_an_error_that_names_the_cure(tmp_path):
    result = run(CUDA_HOME=str(tmp_path))
    assert result.returncode == 1
    assert f'there is no nvcc in {tmp_path}/bin' in result.stdout
    assert 'CUDA toolkit' in result.stdout
    assert 'Traceback' not in result.stdout


def test_missing_nvcc_is_said_if_it_need_not_be_there(tmp_path):
    result = run('--if-available', CUDA_HOME=str(tmp_path))
    assert (result.returncode, result.stdout.count('NOT checked')) == (0, 1)


def test_architectures_that_nvcc_does_not_know_are_left_out_and_said(tools, capsys):
    options = argparse.Namespace(sources=[Path('a.cu')], arch=None)
    task = cuda_check.choose_task(options, {80, 90, 110})
    assert (task.architectures, task.left_out) == ([80, 90], [75, 86, 100])
    cuda_check.summarize([], task, tools)
    assert 'NOT compiled for [75, 86, 100]' in capsys.readouterr().out
    options.arch = [35]
    with pytest.raises(SystemExit, match=r'knows none of \[35\]; it knows \[80, 90, 110\]'):
        cuda_check.choose_task(options, {80, 90, 110})


PLANTED = """
#include "cuda/memory.cuh"

template <typename T>
__global__ void clean(const T* from, T* to) {
  mmdk::cuda::store_global(to, mmdk::cuda::load_global<16 / sizeof(T)>(from));
}
template __global__ void clean(const float*, float*);
template __global__ void clean(const double*, double*);
"""
SPILLING = """
__global__ void __launch_bounds__(1024, 2) hungry(const float* from, float* to) {
  float held[64];
  for (int i = 0; i < 64; ++i) held[i] = from[i * 1024 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 64; ++i) to[(i * 31 % 64) * 1024 + threadIdx.x] = held[i] * held[63 - i];
}
"""
DOUBLE = """
template <typename T>
__global__ void precise(T* to) {
  *to = *to * 0.1;
}
template __global__ void precise(float*);
template __global__ void precise(double*);
"""
ATOMIC = """
__global__ void sum(const float* from, float* to) { atomicAdd(to, from[threadIdx.x]); }
__global__ void sum_scatter(const float* from, float* to) { atomicAdd(to, from[threadIdx.x]); }
"""
UNUSED = """
__global__ void unused(float* to) {
  int nobody_reads_it;
  *to = 1;
}
"""
UNUSED_ON_THE_HOST = """
static void nobody_calls_it() {}
"""


@pytest.fixture
def compiled(tmp_path):
    if not toolkit.find_nvcc():
        pytest.skip('compiling needs nvcc, which is not here')
    try:
        toolkit.find_tools(toolkit.find_nvcc())
    except SystemExit as error:
        pytest.skip(f'{error}; make cuda-check installs it')

    def compile_source(text):
        source = tmp_path / 'planted.cu'
        source.write_text(PLANTED + text)
        table = tmp_path / 'table.json'
        return run(source, '--arch', 80, '--table', table, '--update'), table

    return compile_source


@pytest.mark.slow
def test_clean_kernels_compile_and_make_a_table(compiled):
    result, table = compiled('')
    assert result.returncode == 0, result.stdout
    assert 'Nothing was run' in result.stdout
    lines = kernel_table.read_rows(json.loads(table.read_text()))
    assert [(row.kernel, row.loads_of_16_bytes, row.sm) for row in lines] == [
        ('clean<double>', 1, 80),
        ('clean<float>', 1, 80),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    'text, problem',
    [
        (SPILLING, r'hungry: .*bytes of spill stores'),
        (DOUBLE, r'precise<float>: .* in double precision'),
        (ATOMIC, r'sum: 1 RED\S*, atomic'),
        (UNUSED, r'[\s\S]*nobody_reads_it'),
        (UNUSED_ON_THE_HOST, r'[\s\S]*nobody_calls_it'),
    ],
    ids=['spill', 'double', 'atomic', 'warning', 'host_warning'],
)
def test_planted_error_is_refused(compiled, text, problem):
    result, table = compiled(text)
    assert result.returncode == 1, result.stdout
    errors = re.findall(r'(?sm)^error: (.*?)(?=^error: |\Z)', result.stdout)
    assert len(errors) == 1, result.stdout
    assert re.search(f'planted.cu, sm_80: {problem}', errors[0]), errors[0]
    assert not table.exists()
