#include "parallel.h"

#include <pthread.h>
#include <stdatomic.h>

#define MOST_THREADS 256

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
    while (made < threads - 1 && pthread_create(&helpers[made], 0, work, &q) == 0) made++;
    work(&q);
    for (long k = 0; k < made; k++) pthread_join(helpers[k], 0);
}
