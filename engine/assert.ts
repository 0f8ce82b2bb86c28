/** Assertions for bugs. They are never caught to be retried: they poison what they happened in, loudly. */
export class AssertionError extends Error {
  override name = 'AssertionError';
}

export function assert(condition: unknown, message = 'assertion failed'): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** The value, which the caller knows to be there. */
export function must<T>(value: T | null | undefined, message = 'value expected'): T {
  if (value === null || value === undefined) throw new AssertionError(message);
  return value;
}

/** Closes a switch over a union: the compiler proves it cannot be reached. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable: ${JSON.stringify(value)}`);
}
