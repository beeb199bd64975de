/* Runs independent tasks on a few threads. */
#ifndef LEARNED_OPT_PARALLEL_H
#define LEARNED_OPT_PARALLEL_H

typedef void (*task_function)(void *shared, long task);

/* Call function(shared, task) for every task from 0 to tasks - 1, on at most `threads` threads.
 *
 * The threads are made for the call and joined before it returns. So there is no pool that a fork
 * could break, no second OpenMP runtime beside torch's, and nothing to configure. It takes some
 * 20 us a thread: ask for more than one only where there is work for many times that. A thread
 * that cannot be made is done without. Results must not depend on which thread runs a task. */
void run_tasks(task_function function, void *shared, long tasks, long threads);

#endif
