/**
 * What is stored for a (key, LSN).
 *
 * - `image`   the whole value. Zero bytes mean: the key does not exist from this LSN on (a tombstone).
 * - `record`  one complete PostgreSQL WAL record (header included, page headers removed) that changes this page. With
 *             `willInit` it does not need the page's earlier content.
 * - `patch`   a change of Pagelite's own to a value that is not a relation page (SLRU pages, directories): see ingest/patch.ts.
 *
 * A value's LSN is the *end* LSN of the record that made it, as the page's own LSN is in PostgreSQL.
 * A read at LSN L sees every value with lsn <= L.
 */
export const valueKind = { image: 0, record: 1, recordWillInit: 2, patch: 3, patchWillInit: 4 } as const;
export type ValueKind = (typeof valueKind)[keyof typeof valueKind];

/** True if nothing older is needed to rebuild the value. */
export function isSelfContained(kind: ValueKind): boolean {
  return kind === valueKind.image || kind === valueKind.recordWillInit || kind === valueKind.patchWillInit;
}
