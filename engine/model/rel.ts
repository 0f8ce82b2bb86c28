/** One fork of one relation's storage: PostgreSQL's RelFileLocator plus fork number (Neon's RelTag). */
export interface RelTag {
  /** Tablespace oid: 1663 pg_default, 1664 pg_global. */
  readonly spc: number;
  /** Database oid; 0 for shared relations in pg_global. */
  readonly db: number;
  /** relfilenumber. */
  readonly rel: number;
  readonly fork: ForkNumber;
}

export type BlockNumber = number & { readonly __brand?: 'BlockNumber' };
export type ForkNumber = 0 | 1 | 2 | 3;

export const mainFork = 0;
export const fsmFork = 1;
export const vmFork = 2;
export const initFork = 3;

export const defaultTablespace = 1663;
export const globalTablespace = 1664;

/** `1663/5/16384_vm`, for messages and logs. */
export function formatRel(rel: RelTag): string {
  return `${rel.spc}/${rel.db}/${rel.rel}${['', '_fsm', '_vm', '_init'][rel.fork] ?? `_fork${rel.fork}`}`;
}

export function sameRel(a: RelTag, b: RelTag): boolean {
  return a.rel === b.rel && a.fork === b.fork && a.db === b.db && a.spc === b.spc;
}
