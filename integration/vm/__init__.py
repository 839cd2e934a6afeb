"""Virtual machines with kernels of their own, between which processes are moved. docs/vm.md."""
