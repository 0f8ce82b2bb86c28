/** Much of the same, some of it at the same time. */

/** Does `work` for each item, for up to `count` of them at once, in their order. Rejects with the first failure; what is under way then goes on. */
export async function eachAtOnce<T>(
  items: Iterable<T>,
  count: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  // All share it: each takes the next one.
  const queue = items[Symbol.iterator]();
  const worker = async () => {
    for (let next = queue.next(); !next.done; next = queue.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: count }, worker));
}
