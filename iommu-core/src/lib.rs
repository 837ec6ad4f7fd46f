//! What all IOMMU drivers share: platform traits, command ring, invalidation, PASIDs and shared virtual addressing
#![no_std]
