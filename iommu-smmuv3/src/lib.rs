//! Arm SMMUv3 driver for shared virtual addressing in no_std kernels
#![no_std]
