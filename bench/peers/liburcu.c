/* liburcu's "memb" flavour (membarrier instead of a fence in readers), its read side inlined. */
#define _LGPL_SOURCE
#define URCU_INLINE_SMALL_FUNCTIONS
#include <stdint.h>
#include <urcu/urcu-memb.h>

static const uint64_t value = 42;
static const uint64_t *published = &value;

void shootdown_liburcu_register(void) { urcu_memb_register_thread(); }
void shootdown_liburcu_unregister(void) { urcu_memb_unregister_thread(); }
void shootdown_liburcu_synchronize(void) { urcu_memb_synchronize_rcu(); }

uint64_t shootdown_liburcu_read(uint64_t operations)
{
	uint64_t sum = 0;
	for (uint64_t i = 0; i < operations; i++) {
		urcu_memb_read_lock();
		sum += *rcu_dereference(published);
		urcu_memb_read_unlock();
	}
	return sum;
}
