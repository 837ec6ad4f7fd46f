//! RISC-V IOMMU driver for shared virtual addressing in no_std kernels
#![no_std]
