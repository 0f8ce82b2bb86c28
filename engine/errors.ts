/**
 * Operating errors: what can go wrong without a bug, in seven kinds that say what the caller is to do.
 *
 * - `unavailable`  retry later: a peer, a disk or a quorum is not there now
 * - `notFound`     the named tenant, timeline, key, layer or file does not exist
 * - `invalid`      fix the call: malformed LSN, name taken, bytes that break the protocol
 * - `fenced`       stop: a newer term rules this timeline
 * - `corrupt`      never retry: stored bytes fail their checksum or their format
 * - `closed`       the object was closed before or during the call
 * - `cancelled`    the caller's AbortSignal fired, or a deadline passed
 *
 * Bugs are not here: they are `AssertionError` (assert.ts) and are never caught to be retried.
 * An error crosses workers and sockets as `toJSON()` and comes back through `PageliteError.fromJSON`.
 */
export const errorKinds = ['unavailable', 'notFound', 'invalid', 'fenced', 'corrupt', 'closed', 'cancelled'] as const;
export type ErrorKind = (typeof errorKinds)[number];

/** What the error is about. LSNs are text (`0/16B5A50`), ids are hex, so that it is readable wherever it is printed. */
export interface ErrorData {
  readonly [name: string]: string | number | boolean | undefined;
}

export interface ErrorJson {
  readonly kind: ErrorKind;
  readonly message: string;
  readonly data?: ErrorData;
}

export class PageliteError extends Error {
  readonly kind: ErrorKind;
  readonly data: ErrorData;

  constructor(kind: ErrorKind, message: string, data: ErrorData = {}, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'PageliteError';
    this.kind = kind;
    this.data = data;
  }

  toJSON(): ErrorJson {
    return { kind: this.kind, message: this.message, data: this.data };
  }

  /** Rebuilds an error that crossed a worker or a socket. Anything malformed becomes `unavailable` with its text. */
  static fromJSON(json: unknown): PageliteError {
    const { kind, message, data } = (json ?? {}) as Partial<ErrorJson>;
    if (kind === undefined || !errorKinds.includes(kind) || typeof message !== 'string') {
      return new PageliteError('unavailable', `malformed error from peer: ${JSON.stringify(json)}`);
    }
    return new PageliteError(kind, message, data ?? {});
  }
}

export function isPageliteError(error: unknown, kind?: ErrorKind): error is PageliteError {
  return error instanceof PageliteError && (kind === undefined || error.kind === kind);
}

/** In the data of an `invalid` error: a server refused who asked, not what was asked. It will do so again until it, or the token, is another one. */
export const accessRefused = { access: 'refused' } as const;

export function isAccessRefusal(error: unknown): error is PageliteError {
  return isPageliteError(error, 'invalid') && error.data.access === accessRefused.access;
}

/** There is no room where something was to be stored. */
export function isStorageFull(error: unknown): error is PageliteError {
  return isPageliteError(error, 'unavailable') && error.data.storageFull === true;
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
