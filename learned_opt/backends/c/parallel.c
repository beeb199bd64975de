#include "parallel.h"

#include <pthread.h>
#include <stdatomic.h>

#define MOST_THREADS 256

/* Tasks keep their blocks on the stack, some MB; threads of some systems have 0.5 MB. */
#define STACK_BYTES (8L << 20)

typedef struct {
    task_function function;
    void *shared;
    long tasks;
    atomic_long next;
} queue;

static void *work(void *argument) {
    queue *q = argument;
    for (;;) {
        long task = atomic_fetch_add(&q->next, 1);
        if (task >= q->tasks) return 0;
        q->function(q->shared, task);
    }
}

void run_tasks(task_function function, void *shared, long tasks, long threads) {
    queue q = {function, shared, tasks, 0};
    pthread_t helpers[MOST_THREADS];
    long made = 0;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > tasks) threads = tasks;
    pthread_attr_t attributes;
    if (threads > 1 && pthread_attr_init(&attributes) == 0) {
        if (pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0)
            while (made < threads - 1 && pthread_create(&helpers[made], &attributes, work, &q) == 0)
                made++;
        pthread_attr_destroy(&attributes);
    }
    work(&q);
    for (long k = 0; k < made; k++) pthread_join(helpers[k], 0);
}
