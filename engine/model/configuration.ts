/**
 * Which safekeepers hold a timeline's WAL. A safekeeper is replaced by a configuration of the next generation, which more than half of the old members must
 * have stored before it counts: from then on nobody who knows only the old one finds a quorum.
 *
 * Source: Neon's membership configurations (docs/rfcs/035-safekeeper-dynamic-membership-change.md), without joint ones: here one member changes at a time, and
 * one that is lost for good.
 */
import { PageliteError } from '../errors.ts';
import { safekeepersMax } from '../limits.ts';
import type { NodeId } from './ids.ts';

export interface SafekeeperConfiguration {
  /** 0: not known; nothing is compared then. */
  readonly generation: number;
  /** Ascending. */
  readonly members: readonly NodeId[];
}

/** Of a proposer that has nobody to tell it, as of a branch that is in a tab, and of a safekeeper that was never told. */
export const noConfiguration: SafekeeperConfiguration = { generation: 0, members: [] };

export function configurationOf(generation: number, members: readonly NodeId[]): SafekeeperConfiguration {
  const configuration = { generation, members: [...members].sort((a, b) => a - b) };
  checkConfiguration(configuration);
  return configuration;
}

/** Throws `invalid`. */
export function checkConfiguration({ generation, members }: SafekeeperConfiguration): void {
  const isAscending = members.every((id, i) => i === 0 || id > members[i - 1]!);
  const isEmpty = generation === 0 && members.length === 0;
  if (isEmpty || (generation > 0 && isAscending && members.length > 0 && members.length <= safekeepersMax)) return;
  throw new PageliteError(
    'invalid',
    `not a configuration of safekeepers: ${formatConfiguration({ generation, members })}`,
  );
}

export function sameMembers(a: SafekeeperConfiguration, b: SafekeeperConfiguration): boolean {
  return a.members.length === b.members.length && a.members.every((id, i) => id === b.members[i]);
}

/** `3 [1, 2, 4]`. */
export const formatConfiguration = ({ generation, members }: SafekeeperConfiguration): string =>
  `${generation} [${members.join(', ')}]`;
