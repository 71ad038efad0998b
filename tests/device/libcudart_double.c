/* A double of libcudart for machines without a GPU: "device" memory is heap memory, a stream is a queue that is
 * run at once, time is the wall clock. It exports what bottlekit calls and nothing else, with the argument
 * lists of CUDA's own header, checks handles, and counts what was not given back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { int magic; double ms; int recorded; } Event;
enum { STREAM = 0x57, EVENT = 0xE7, GRAPH = 0x61, EXEC = 0x62 };
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_READY = 600 };

#define TOTAL ((size_t)1 << 24)
static size_t used;
static int live_blocks, live_pinned, live_streams, live_events, live_graphs, capturing;
static int version = 10020;

/* What a recorded stream holds: copies, and calls of the TensorRT double. */
typedef void (*Call)(int);
typedef struct Copy { void *to; const void *from; size_t n; Call call; int number; struct Copy *next; } Copy;
typedef struct { int magic; Copy *first; } Graph;
static Copy *captured;

void double_set_version(int v) { version = v; }
int double_live(void) { return live_blocks + live_pinned + live_streams + live_events + live_graphs; }

const char *cudaGetErrorString(int e) {
  return e == OK ? "no error" : e == INVALID ? "invalid argument" : e == NO_MEMORY ? "out of memory" : "not ready";
}
int cudaGetDeviceCount(int *n) { *n = 1; return OK; }
int cudaSetDevice(int d) { return d == 0 ? OK : INVALID; }
int cudaDeviceGetAttribute(int *v, int attr, int d) {
  if (d) return INVALID;
  if (attr == 75) *v = 6; else if (attr == 76) *v = 2; else return INVALID;
  return OK;
}
int cudaGetDeviceProperties(void *p, int d) { if (d) return INVALID; memset(p, 0, 256); strcpy(p, "double of a GPU"); return OK; }
int cudaMemGetInfo(size_t *f, size_t *t) { *f = TOTAL - used; *t = TOTAL; return OK; }
int cudaDriverGetVersion(int *v) { *v = version; return OK; }
int cudaRuntimeGetVersion(int *v) { *v = version; return OK; }

int cudaMalloc(void **p, size_t n) {
  size_t *block;
  if (n > TOTAL - used) return NO_MEMORY;
  block = malloc(n + sizeof(size_t));
  *block = n; used += n; live_blocks++;
  *p = block + 1;
  return OK;
}
int cudaFree(void *p) { size_t *block = (size_t *)p - 1; used -= *block; live_blocks--; free(block); return OK; }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { (void)flags; *p = malloc(n); live_pinned++; return OK; }
int cudaFreeHost(void *p) { free(p); live_pinned--; return OK; }

static int *new_handle(int magic) { int *h = calloc(1, sizeof(Event)); *h = magic; return h; }
int cudaStreamCreate(void **s) { *s = new_handle(STREAM); live_streams++; return OK; }
int cudaStreamDestroy(void *s) { if (*(int *)s != STREAM) return INVALID; free(s); live_streams--; return OK; }
int cudaStreamSynchronize(void *s) { return *(int *)s == STREAM && !capturing ? OK : INVALID; }
static void record(void *to, const void *from, size_t n, Call call, int number) {
  Copy **tail, *copy = malloc(sizeof *copy);
  copy->to = to; copy->from = from; copy->n = n; copy->call = call; copy->number = number; copy->next = NULL;
  for (tail = &captured; *tail; tail = &(*tail)->next) {}
  *tail = copy;
}
/* Run a call now, or with the graph that is being recorded. */
void double_enqueue(Call call, int number) { if (capturing) record(NULL, NULL, 0, call, number); else call(number); }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *s) {
  if (*(int *)s != STREAM || (kind != 1 && kind != 2)) return INVALID;
  if (capturing) record(to, from, n, NULL, 0); else memcpy(to, from, n);
  return OK;
}
int cudaEventCreate(void **e) { *e = new_handle(EVENT); live_events++; return OK; }
int cudaEventDestroy(void *e) { if (*(int *)e != EVENT) return INVALID; free(e); live_events--; return OK; }
int cudaEventRecord(void *e, void *s) {
  struct timespec now;
  if (*(int *)e != EVENT || *(int *)s != STREAM) return INVALID;
  clock_gettime(CLOCK_MONOTONIC, &now);
  ((Event *)e)->ms = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
  ((Event *)e)->recorded = 1;
  return OK;
}
int cudaEventElapsedTime(float *ms, void *a, void *b) {
  if (*(int *)a != EVENT || *(int *)b != EVENT) return INVALID;
  if (!((Event *)a)->recorded || !((Event *)b)->recorded) return NOT_READY;
  *ms = (float)(((Event *)b)->ms - ((Event *)a)->ms);
  return OK;
}

int cudaStreamBeginCapture(void *s, int mode) { (void)mode; if (*(int *)s != STREAM || capturing) return INVALID; capturing = 1; captured = NULL; return OK; }
int cudaStreamEndCapture(void *s, void **g) {
  Graph *graph;
  if (*(int *)s != STREAM || !capturing) return INVALID;
  capturing = 0;
  graph = calloc(1, sizeof *graph);
  graph->magic = GRAPH; graph->first = captured;
  live_graphs++; *g = graph;
  return OK;
}
/* CUDA 12: (exec, graph, flags). CUDA 10 and 11: (exec, graph, error node, log, log size). */
int cudaGraphInstantiate(void **x, void *g, void *third, char *log, size_t size) {
  Graph *exec;
  if (((Graph *)g)->magic != GRAPH || third != NULL) return INVALID;
  if (version < 12000 && (log != NULL || size != 0)) return INVALID;
  exec = calloc(1, sizeof *exec);
  exec->magic = EXEC; exec->first = ((Graph *)g)->first;
  live_graphs++; *x = exec;
  return OK;
}
int cudaGraphLaunch(void *x, void *s) {
  Copy *copy;
  if (((Graph *)x)->magic != EXEC || *(int *)s != STREAM) return INVALID;
  for (copy = ((Graph *)x)->first; copy; copy = copy->next) {
    if (copy->call) copy->call(copy->number); else memcpy(copy->to, copy->from, copy->n);
  }
  return OK;
}
int cudaGraphDestroy(void *g) { if (((Graph *)g)->magic != GRAPH) return INVALID; free(g); live_graphs--; return OK; }
int cudaGraphExecDestroy(void *x) { if (((Graph *)x)->magic != EXEC) return INVALID; free(x); live_graphs--; return OK; }
