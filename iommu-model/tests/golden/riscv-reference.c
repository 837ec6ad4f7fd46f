/* Prints translations made by the RISC-V IOMMU reference model (riscv-non-isa/riscv-iommu,
 * iommu_ref_model, Apache-2.0, commit 14fd3916) for tests/riscv/reference.rs:
 *     gcc -I iommu_ref_model/libiommu/include riscv-reference.c \
 *         $(ls iommu_ref_model/libiommu/src/*.c | grep -v iommu_faults) && ./a.out > riscv-reference.txt
 * Each case is a random context with random tables, often with one bit flipped, and one request:
 *     w ADDRESS VALUE                          a doubleword in memory
 *     q PASID|- PRIVILEGED ACCESS ATS ADDRESS  the request: ACCESS r, w or x; ATS 1 for a translation request
 *     f CAUSE IOTVAL2                          refused; without a fault record, 0 0
 *     t ADDRESS SIZE RIGHTS                    translated; RIGHTS of the letters rwx
 *     u ADDRESS VALUE                          a doubleword that the translation has changed
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "iommu.h"

#define BASE 0x80000000ULL
/* What the IOMMU can access: 2 MiB, of which the tables take the first pages. */
#define PAGES 512
#define SIZE (PAGES * 4096ULL)
#define DEVICE 5

static uint64_t memory[SIZE / 8], before[SIZE / 8];
static uint64_t next_page, seed = 1;
static uint32_t fault_cause, silent;
static uint64_t fault_iotval2;

uint8_t read_memory(uint64_t address, uint8_t size, char *data, uint32_t rcid, uint32_t mcid, uint32_t pma, int endian)
{
    if (address < BASE || address - BASE + size > SIZE)
        return ACCESS_FAULT;
    memcpy(data, (char *)memory + (address - BASE), size);
    return 0;
}

uint8_t read_memory_for_AMO(uint64_t address, uint8_t size, char *data, uint32_t rcid, uint32_t mcid, uint32_t pma,
                            int endian)
{
    return read_memory(address, size, data, rcid, mcid, pma, endian);
}

uint8_t write_memory(char *data, uint64_t address, uint32_t size, uint32_t rcid, uint32_t mcid, uint32_t pma, int endian)
{
    if (address < BASE || address - BASE + size > SIZE)
        return ACCESS_FAULT;
    memcpy((char *)memory + (address - BASE), data, size);
    return 0;
}

void iommu_to_hb_do_global_observability_sync(uint8_t PR, uint8_t PW) {}
void send_msg_iommu_to_hb(ats_msg_t *message) {}
void handle_virtual_interrupt_file_overlap(device_context_t *DC, uint64_t gpa, uint64_t *size) {}

void get_attribs_from_req(hb_to_iommu_req_t *req, uint8_t *read, uint8_t *write, uint8_t *exec, uint8_t *priv)
{
    int untranslated = req->tr.at == ADDR_TYPE_UNTRANSLATED;
    *exec = req->tr.read_writeAMO == READ && req->exec_req && (untranslated || req->pid_valid);
    *read = req->tr.read_writeAMO == READ && !(untranslated && req->exec_req);
    *write = req->tr.read_writeAMO == WRITE || (!untranslated && !req->no_write);
    *priv = req->pid_valid && req->priv_req ? S_MODE : U_MODE;
}

void report_fault(iommu_t *iommu, uint16_t cause, uint64_t iotval, uint64_t iotval2, uint8_t TTYP, uint8_t dtf,
                  uint32_t device_id, uint8_t pid_valid, uint32_t process_id, uint8_t priv_req)
{
    silent = dtf && cause != 257 && cause != 258 && cause != 259;
    fault_cause = cause;
    fault_iotval2 = iotval2;
}

static uint64_t bits(void)
{
    seed += 0x9e3779b97f4a7c15ULL;
    uint64_t x = seed;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

static uint64_t below(uint64_t bound) { return bits() % bound; }
static int once_in(uint64_t times) { return below(times) == 0; }

static uint64_t take(uint64_t pages)
{
    next_page = (next_page + pages - 1) / pages * pages;
    uint64_t page = BASE + next_page * 4096;
    next_page += pages;
    if (next_page > PAGES)
        abort();
    return page;
}

static uint64_t *word(uint64_t address) { return &memory[(address - BASE) / 8]; }

static uint64_t rights(void)
{
    static const uint64_t some[] = { 0xdf, 0xdf, 0xdf, 0xd7, 0xd7, 0xd3, 0xd9, 0xdb, 0x5f, 0x1f, 0x17, 0xcf, 0xff, 0x53 };
    return some[below(sizeof(some) / sizeof(some[0]))];
}

/* Puts a leaf entry for address into a table of so many levels. */
static void map(uint64_t root, int levels, int wide, uint64_t address, uint64_t to, int leaf, uint64_t flags)
{
    uint64_t table = root;
    for (int level = levels - 1; level >= leaf; level--) {
        uint64_t mask = wide && level == levels - 1 ? 0x7ff : 0x1ff;
        uint64_t *entry = word(table + (address >> (12 + 9 * level) & mask) * 8);
        if (level == leaf)
            *entry = to >> 12 << 10 | flags;
        else if (!(*entry & 1))
            *entry = take(1) >> 12 << 10 | 1;
        table = (*entry >> 10 & 0xfffffffffffULL) << 12;
    }
}

static uint64_t any_address(int first, int second)
{
    if (first) {
        int width = 12 + 9 * (first - 5);
        uint64_t low = below(1ULL << (width - 1));
        if (once_in(16))
            low |= 1ULL << (width + below(64 - width));
        return once_in(4) ? ~low : low;
    }
    if (second) {
        uint64_t low = below(1ULL << (14 + 9 * (second - 5)));
        return once_in(16) ? low | 1ULL << 60 : low;
    }
    return below(1ULL << 56);
}

static void one_case(void)
{
    memset(memory, 0, sizeof(memory));
    next_page = 0;
    static const int modes[] = { 0, 8, 9, 10 };
    int first = modes[below(4)], second = modes[below(4)];
    uint64_t directory = take(4), address = any_address(first, second);
    int has_process_directory = once_in(2), process = below(4), wide = once_in(3);
    uint64_t control = 1 | (once_in(2) ? 2 : 0) | (once_in(2) ? 1 << 7 : 0) | (once_in(2) ? 1 << 8 : 0);
    uint64_t root = first ? take(1) : 0, guest = second ? take(4) : 0;
    uint64_t fsc = (uint64_t)first << 60 | root >> 12, pscid = 7 << 12;

    /* Where the first stage leads. */
    uint64_t middle = second ? 0x90000000ULL : below(1ULL << 44) << 12;
    if (first) {
        int leaf = below(3), contiguous = leaf == 0 && once_in(3);
        uint64_t to = once_in(16) ? middle : middle >> (12 + 9 * leaf) << (12 + 9 * leaf);
        to = contiguous ? (to & ~0xffffULL) | (once_in(8) ? 0x4000 : 0x8000) : to;
        map(root, first - 5, 0, address, to, leaf, rights() | (contiguous ? 1ULL << 63 : 0));
        uint64_t size = contiguous ? 0x10000 : 1ULL << (12 + 9 * leaf);
        middle = (to & ~(size - 1)) | (address & (size - 1));
    } else if (second) {
        middle = address;
    }
    uint64_t dc[8] = { control, 0, pscid, fsc };
    if (has_process_directory) {
        int levels = 1 + below(3);
        uint64_t table = take(1);
        dc[0] |= 1 << 5 | (once_in(2) ? 1 << 9 : 0);
        dc[3] = (uint64_t)levels << 60 | table >> 12;
        if (wide)
            process = below(1 << (levels == 1 ? 8 : levels == 2 ? 17 : 20));
        for (int level = levels - 1; level > 0; level--) {
            uint64_t *entry = word(table + (process >> (8 + 9 * (level - 1)) & 0x1ff) * 8);
            *entry = take(1) >> 12 << 10 | 1;
            table = *entry >> 10 << 12;
        }
        uint64_t *pc = word(table + (process & 0xff) * 16);
        pc[0] = 1 | below(4) << 1 | pscid;
        pc[1] = fsc;
    }
    if (second) {
        dc[1] = (uint64_t)second << 60 | 0x123ULL << 44 | guest >> 12;
        int leaf = once_in(2) ? 1 : 0;
        uint64_t to = 0xa0000000ULL + below(512) * 4096;
        map(guest, second - 5, 1, middle & ((1ULL << (14 + 9 * (second - 5))) - 1),
            leaf && !once_in(16) ? to & ~0x1fffffULL : to, leaf, rights());
        /* The tables themselves, with D: with SADE the reference model wants it set even where it only reads. */
        map(guest, second - 5, 1, BASE, BASE, 1, once_in(4) ? rights() | 0x80 : 0xd7);
    }
    memcpy(word(directory + DEVICE * 64), dc, sizeof(dc));
    if (once_in(2)) {
        int used = 0, chosen = 0;
        for (uint64_t i = 0; i < SIZE / 8; i++)
            used += memory[i] != 0;
        chosen = below(used);
        for (uint64_t i = 0; i < SIZE / 8; i++)
            if (memory[i] != 0 && chosen-- == 0) {
                memory[i] ^= 1ULL << below(64);
                break;
            }
    }

    capabilities_t capabilities = { .raw = 0 };
    capabilities.version = 0x10;
    capabilities.Sv39 = capabilities.Sv48 = capabilities.Sv57 = 1;
    capabilities.Sv39x4 = capabilities.Sv48x4 = capabilities.Sv57x4 = 1;
    capabilities.Svpbmt = capabilities.msi_flat = capabilities.amo_hwad = capabilities.ats = 1;
    capabilities.igs = IGS_BOTH;
    capabilities.dbg = 1;
    capabilities.pas = 56;
    capabilities.pd8 = capabilities.pd17 = capabilities.pd20 = 1;
    fctl_t fctl = { .raw = 0 };
    iommu_t *iommu = calloc(1, sizeof(*iommu));
    const uint64_t gib = 1 << 30;
    if (reset_iommu(iommu, 0, 0, 0, 4, Off, DDT_3LVL, 0xffffff, 0, 0, 0, capabilities, fctl, gib, gib, gib, gib, gib, gib,
                    gib, gib) != 0)
        abort();
    iommu->reg_file.ddtp.iommu_mode = DDT_1LVL;
    iommu->reg_file.ddtp.ppn = directory >> 12;

    hb_to_iommu_req_t request = { .device_id = DEVICE };
    iommu_to_hb_rsp_t response = { 0 };
    int access = below(3), ats = once_in(4);
    request.pid_valid = has_process_directory ? !once_in(4) : once_in(16);
    request.process_id = once_in(16) ? bits() & 0xfffff : process;
    request.priv_req = request.pid_valid && once_in(4);
    if (ats && !request.pid_valid && access == 2)
        access = 0;
    request.exec_req = access == 2;
    request.no_write = access != 1;
    request.tr.at = ats ? ADDR_TYPE_PCIE_ATS_TRANSLATION_REQUEST : ADDR_TYPE_UNTRANSLATED;
    request.tr.iova = address;
    request.tr.length = 1;
    request.tr.read_writeAMO = !ats && access == 1 ? WRITE : READ;

    for (uint64_t i = 0; i < SIZE / 8; i++)
        if (memory[i] != 0)
            printf("w %" PRIx64 " %" PRIx64 "\n", BASE + 8 * i, memory[i]);
    memcpy(before, memory, sizeof(memory));
    fault_cause = silent = 0;
    fault_iotval2 = 0;
    iommu_translate_iova(iommu, &request, &response);
    if (request.pid_valid)
        printf("q %x", request.process_id);
    else
        printf("q -");
    printf(" %d %c %d %" PRIx64 "\n", request.priv_req, "rwx"[access], ats, address);
    iommu_trans_rsp_t *found = &response.trsp;
    int granted = access == 0 ? found->R : access == 1 ? found->W : found->Exe;
    if (fault_cause != 0 && !silent) {
        printf("f %d %" PRIx64 "\n", fault_cause, fault_iotval2);
    } else if (fault_cause != 0 || (ats && !granted)) {
        printf("f 0 0\n");
    } else {
        uint64_t size = 4096, page = found->PPN;
        if (found->S) {
            while (page & 1) {
                page >>= 1;
                size *= 2;
            }
            size *= 2;
        }
        uint64_t start = (found->PPN << 12) & ~(size - 1);
        printf("t %" PRIx64 " %" PRIx64 " %s%s%s\n", start | (address & (size - 1)), size, found->R ? "r" : "",
               found->W ? "w" : "", found->Exe ? "x" : "");
    }
    for (uint64_t i = 0; i < SIZE / 8; i++)
        if (memory[i] != before[i])
            printf("u %" PRIx64 " %" PRIx64 "\n", BASE + 8 * i, memory[i]);
    free(iommu);
}

int main(int count, char **arguments)
{
    int cases = count > 1 ? atoi(arguments[1]) : 400;
    while (cases-- > 0)
        one_case();
    return 0;
}
