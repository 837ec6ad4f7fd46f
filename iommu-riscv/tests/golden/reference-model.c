/* Prints golden values for tests/golden.rs, encoded by the bit fields of the RISC-V IOMMU reference
 * model (riscv-non-isa/riscv-iommu, iommu_ref_model, Apache-2.0, commit 14fd3916), not by ours:
 *     gcc -I iommu_ref_model/libiommu/include reference-model.c && ./a.out > reference-model.txt
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "iommu.h"

static void words(const char *name, const void *value, size_t count)
{
    uint64_t word[8];
    memcpy(word, value, count * 8);
    printf("%s", name);
    for (size_t i = 0; i < count; i++)
        printf(" %016" PRIx64, word[i]);
    printf("\n");
}

#define COMMAND(name, group, ...) do {                  \
        command_t c = { .group = { __VA_ARGS__ } };     \
        words(name, &c, 2);                             \
    } while (0)

#define WORD(name, type, ...) do {                      \
        type v = { { __VA_ARGS__ } };                   \
        uint64_t raw = v.raw;                           \
        words(name, &raw, 1);                           \
    } while (0)

#define OFFSET(name, value) do { uint64_t v = value; words(name, &v, 1); } while (0)

static void commands(void)
{
    COMMAND("iotinval_vma_all", iotinval, .opcode = IOTINVAL, .func3 = VMA);
    COMMAND("iotinval_gvma_all", iotinval, .opcode = IOTINVAL, .func3 = GVMA);
    COMMAND("iotinval_vma_tag", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 0xabcde);
    COMMAND("iotinval_vma_page", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 0xabcde,
            .av = 1, .addr_63_12 = 0xfedcba9876543);
    COMMAND("iotinval_vma_page_nl", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 0xabcde,
            .av = 1, .nl = 1, .addr_63_12 = 0x12345);
    COMMAND("iotinval_vma_8k", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 1,
            .av = 1, .s = 1, .addr_63_12 = 0x12344);
    COMMAND("iotinval_vma_2m_nl", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 1,
            .av = 1, .nl = 1, .s = 1, .addr_63_12 = 0x12200 | 0xff);
    COMMAND("iofence", iofence, .opcode = IOFENCE, .func3 = IOFENCE_C);
    COMMAND("iofence_with_word", iofence, .opcode = IOFENCE, .func3 = IOFENCE_C, .av = 1, .pr = 1, .pw = 1,
            .data = 0x89abcdef, .addr_63_2 = 0x80123456789abcULL >> 2);
    COMMAND("iodir_inval_ddt_all", iodir, .opcode = IODIR, .func3 = INVAL_DDT);
    COMMAND("iodir_inval_ddt", iodir, .opcode = IODIR, .func3 = INVAL_DDT, .dv = 1, .did = 0xedcba9);
    COMMAND("iodir_inval_pdt", iodir, .opcode = IODIR, .func3 = INVAL_PDT, .dv = 1, .did = 0xedcba9,
            .pid = 0x98765);
    COMMAND("ats_inval_page", ats, .opcode = ATS, .func3 = INVAL, .rid = 0xba98, .payload = 0x123456789abcd000);
    COMMAND("ats_inval_all_pasid", ats, .opcode = ATS, .func3 = INVAL, .rid = 0xba98, .pv = 1, .pid = 0x98765,
            .payload = 0x7ffffffffffff800);
    COMMAND("ats_inval_segment", ats, .opcode = ATS, .func3 = INVAL, .rid = 0xba98, .dsv = 1, .dseg = 0xfe,
            .payload = 0x1000);
}

/* What a guest with GSCID 0x5a5 writes, whose devices 0x000102 and 0x010203 are 0x001234 and 0xfe1235 of the
 * host, and what is to be sent for it: GSCID and device replaced, ignored operands left out. */
static void guests(void)
{
    COMMAND("guest_all", iotinval, .opcode = IOTINVAL, .func3 = VMA);
    COMMAND("host_all", iotinval, .opcode = IOTINVAL, .func3 = VMA, .gv = 1, .gscid = 0x5a5);
    COMMAND("guest_all_of_vm", iotinval, .opcode = IOTINVAL, .func3 = VMA, .gv = 1, .gscid = 7);
    COMMAND("host_all_of_vm", iotinval, .opcode = IOTINVAL, .func3 = VMA, .gv = 1, .gscid = 0x5a5);
    COMMAND("guest_tag", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 0xabcde);
    COMMAND("host_tag", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 0xabcde, .gv = 1,
            .gscid = 0x5a5);
    COMMAND("guest_page", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 9, .av = 1,
            .addr_63_12 = 0xfffffffffffff);
    COMMAND("host_page", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscv = 1, .pscid = 9, .av = 1,
            .addr_63_12 = 0xfffffffffffff, .gv = 1, .gscid = 0x5a5);
    COMMAND("guest_2m_nl_all", iotinval, .opcode = IOTINVAL, .func3 = VMA, .av = 1, .nl = 1, .s = 1,
            .addr_63_12 = 0x12200 | 0xff);
    COMMAND("host_2m_nl_all", iotinval, .opcode = IOTINVAL, .func3 = VMA, .av = 1, .nl = 1, .s = 1,
            .addr_63_12 = 0x12200 | 0xff, .gv = 1, .gscid = 0x5a5);
    COMMAND("guest_ignored", iotinval, .opcode = IOTINVAL, .func3 = VMA, .pscid = 9, .gscid = 7, .nl = 1,
            .s = 1, .addr_63_12 = 0x12345);
    COMMAND("host_ignored", iotinval, .opcode = IOTINVAL, .func3 = VMA, .gv = 1, .gscid = 0x5a5);
    COMMAND("guest_fence", iofence, .opcode = IOFENCE, .func3 = IOFENCE_C, .pr = 1, .data = 7, .addr_63_2 = 9);
    COMMAND("host_fence", iofence, .opcode = IOFENCE, .func3 = IOFENCE_C, .pr = 1);
    COMMAND("guest_fence_writes", iofence, .opcode = IOFENCE, .func3 = IOFENCE_C, .pw = 1);
    COMMAND("host_fence_writes", iofence, .opcode = IOFENCE, .func3 = IOFENCE_C, .pw = 1);
    COMMAND("guest_process", iodir, .opcode = IODIR, .func3 = INVAL_PDT, .dv = 1, .did = 0x010203, .pid = 0x5);
    COMMAND("host_process", iodir, .opcode = IODIR, .func3 = INVAL_PDT, .dv = 1, .did = 0xfe1235, .pid = 0x5);
    COMMAND("guest_ats", ats, .opcode = ATS, .func3 = INVAL, .rid = 0x0102, .payload = 0x7ffffffffffff800);
    COMMAND("host_ats", ats, .opcode = ATS, .func3 = INVAL, .rid = 0x1234, .payload = 0x7ffffffffffff800);
    COMMAND("guest_ats_segment", ats, .opcode = ATS, .func3 = INVAL, .rid = 0x0203, .dsv = 1, .dseg = 1, .pv = 1,
            .pid = 5, .payload = 0x5001);
    COMMAND("host_ats_segment", ats, .opcode = ATS, .func3 = INVAL, .rid = 0x1235, .dsv = 1, .dseg = 0xfe, .pv = 1,
            .pid = 5, .payload = 0x5001);
    COMMAND("guest_ats_pasid_0", ats, .opcode = ATS, .func3 = INVAL, .rid = 0x0102, .pv = 1, .payload = 0x5800);
    COMMAND("host_ats_pasid_0", ats, .opcode = ATS, .func3 = INVAL, .rid = 0x1234, .pv = 1, .payload = 0x5800);
    COMMAND("guest_ats_ignored", ats, .opcode = ATS, .func3 = INVAL, .rid = 0x0102, .dseg = 0xff, .pid = 5,
            .payload = 0x1001);
    COMMAND("host_ats_ignored", ats, .opcode = ATS, .func3 = INVAL, .rid = 0x1234, .payload = 0x1000);
}

static void tables(void)
{
    device_context_t dc = {0};
    dc.tc.V = dc.tc.PDTV = dc.tc.DPE = 1;
    dc.fsc.pdtp.MODE = PD8;
    dc.fsc.pdtp.PPN = 0xfedcba98765;
    words("device_context_pd8", &dc, 4);
    dc.tc.EN_ATS = dc.tc.SADE = 1;
    dc.fsc.pdtp.MODE = PD20;
    words("device_context_pd20_ats_sade", &dc, 4);
    dc.fsc.pdtp.MODE = PD17;
    words("device_context_pd17_ats_sade", &dc, 4);

    process_context_t pc = {0};
    pc.ta.V = 1;
    pc.ta.PSCID = 0xabcde;
    pc.fsc.iosatp.PPN = 0xfedcba98765;
    pc.fsc.iosatp.MODE = IOSATP_Sv39;
    words("process_context_sv39", &pc, 2);
    pc.fsc.iosatp.MODE = IOSATP_Sv48;
    words("process_context_sv48", &pc, 2);
    pc.fsc.iosatp.MODE = IOSATP_Sv57;
    words("process_context_sv57", &pc, 2);

    WORD("non_leaf", ddte_t, .V = 1, .PPN = 0xfedcba98765);
    WORD("non_leaf_process", pdte_t, .V = 1, .PPN = 0xfedcba98765);

#define TC(bit) WORD("tc." #bit, tc_t, .bit = 1)
    TC(V); TC(EN_ATS); TC(EN_PRI); TC(T2GPA); TC(DTF); TC(PDTV); TC(PRPR); TC(GADE); TC(SADE); TC(DPE); TC(SBE); TC(SXL);
#define PC(bit) WORD("pc." #bit, pc_ta_t, .bit = 1)
    PC(V); PC(ENS); PC(SUM);
}

static void registers(void)
{
#define OFF(name) OFFSET("offset." #name, RVI_IOMMU_##name##_OFFSET)
    OFF(CAPABILITIES); OFF(FCTL); OFF(DDTP); OFF(CQB); OFF(CQH); OFF(CQT); OFF(FQB); OFF(FQH); OFF(FQT);
    OFF(CQCSR); OFF(FQCSR); OFF(PQCSR); OFF(IPSR); OFF(TR_REQ_IOVA); OFF(TR_REQ_CTRL); OFF(TR_RESPONSE);
    WORD("ddtp_3lvl", ddtp_t, .iommu_mode = 4, .ppn = 0xfedcba98765);
    WORD("ddtp_busy", ddtp_t, .busy = 1);
    WORD("cqb_256", cqb_t, .log2szm1 = 7, .ppn = 0xfedcba98765);
#define CQ(bit) WORD("cqcsr." #bit, cqcsr_t, .bit = 1)
    CQ(cqen); CQ(cie); CQ(cqmf); CQ(cmd_to); CQ(cmd_ill); CQ(fence_w_ip); CQ(cqon); CQ(busy);
#define FQ(bit) WORD("fqcsr." #bit, fqcsr_t, .bit = 1)
    FQ(fqen); FQ(fie); FQ(fqmf); FQ(fqof); FQ(fqon); FQ(busy);
#define PQ(bit) WORD("pqcsr." #bit, pqcsr_t, .bit = 1)
    PQ(pqen); PQ(pqmf); PQ(pqof); PQ(pqon); PQ(busy);
#define IP(bit) WORD("ipsr." #bit, ipsr_t, .bit = 1)
    IP(cip); IP(fip); IP(pmip); IP(pip);
#define FC(bit) WORD("fctl." #bit, fctl_t, .bit = 1)
    FC(be); FC(wsi); FC(gxl);
#define CAP(bit) WORD("capabilities." #bit, capabilities_t, .bit = 1)
    CAP(Sv39); CAP(Sv48); CAP(Sv57); CAP(Sv32x4); CAP(Sv39x4); CAP(Sv48x4); CAP(Sv57x4); CAP(msi_flat);
    CAP(amo_hwad); CAP(ats); CAP(end); CAP(dbg); CAP(pd8); CAP(pd17); CAP(pd20); CAP(nl); CAP(s);
    WORD("capabilities.version", capabilities_t, .version = 0x10);
    WORD("capabilities.igs_wsi", capabilities_t, .igs = 1);
    WORD("capabilities.igs_both", capabilities_t, .igs = 2);
    WORD("capabilities.pas_56", capabilities_t, .pas = 56);
    WORD("tr_req_read", tr_req_ctrl_t, .go_busy = 1, .NW = 1, .DID = 0xedcba9);
    WORD("tr_req_write_pasid", tr_req_ctrl_t, .go_busy = 1, .DID = 0xedcba9, .PV = 1, .PID = 0x98765);
    WORD("tr_response_fault", tr_response_t, .fault = 1);
    WORD("tr_response_page", tr_response_t, .PPN = 0x80123, .PBMT = 1);
    WORD("tr_response_2m", tr_response_t, .PPN = 0x80000 | 0xff, .S = 1);
}

static void events(void)
{
    fault_rec_t f = {0};
    f.CAUSE = 13; f.PID = 0x98765; f.PV = 1; f.TTYP = 2; f.DID = 0xedcba9;
    f.iotval = 0x3ffff12345678; f.iotval2 = 0x1111222233334444;
    f.custom = 0xffffffff;
    words("fault_read_pasid", &f, 4);
    f.CAUSE = 266; f.PID = 0; f.PV = 0; f.PRIV = 0; f.TTYP = 3;
    words("fault_write_untagged", &f, 4);
    f.PV = 1; f.PRIV = 1; f.CAUSE = 4095; f.TTYP = 63; f.DID = 0xffffff; f.PID = 0xfffff;
    words("fault_unknown", &f, 4);
}

int main(void)
{
    commands();
    guests();
    tables();
    registers();
    events();
    return 0;
}
