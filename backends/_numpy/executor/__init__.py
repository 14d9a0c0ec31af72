"""Executor of compiled programs on NumPy: calls into planned buffers.

A program (`tapegrad._program.ir`) is planned once, pass by pass, and its calls are run at each call. Files in the order
of reading:

- a call: `executor`, then `code` and `references`, which patch the calls where an array is another;
- the plan: `plan`, with its passes `aliasing`, `liveness`, `donation` and `checks`;
- memory: `placement` gives each value an array, from the pool in `buffers`;
- the calls of single nodes: `emit` dispatches, `nodes` emits, `kernels` knows NumPy's ufuncs, `scatter` indices;
- the calls of groups: `tiling` and `tiles` for runs, `stacked` for stacks, folds and scans, `axpy` for updates;
- threads: `sharing` decides, `threads` runs, `blas` knows the libraries that are loaded.

`emitter` is the protocol that the emitters of nodes and groups see. A fault shows in one of these ways:

- a wrong value, right when the program is run node by node: `nodes` and `kernels`; within a run `tiles`;
- a value that another one has overwritten: `aliasing`, `liveness` and `placement`;
- a state array or an earlier output that changes behind the user: `donation`, `checks` and `executor`;
- a right value of an earlier call: `code` and `references`.
"""
