/**
 * The PageService of a timeline in this process keeps the seam's contract (tests/contracts/page-service.ts): with its values in memory, in layer
 * files, and on a branch of a timeline that has them, here or behind another PageService.
 *
 * The timeline begins with the template, for the basebackup; the contract's relation is put by hand.
 */
import { setImmediate } from 'node:timers/promises';
import { beforeAll } from 'vitest';
import { createTenantTemplate } from '../../engine/basebackup/tenant-template.ts';
import type { TenantTemplate } from '../../engine/services.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { runPageServiceContract } from '../contracts/page-service.ts';
import { type TimelineKind, timelineFixture } from '../support/timeline-fixture.ts';

let template: TenantTemplate;
beforeAll(async () => {
  template = await createTenantTemplate();
});

const fixture = (kind: TimelineKind) =>
  timelineFixture({ kind, template, store: new MemoryObjectStore(), yieldTurn: () => setImmediate() });

runPageServiceContract('a timeline in memory', () => fixture('memory'));
runPageServiceContract('a timeline in layer files', () => fixture('files'));
runPageServiceContract('a branch', () => fixture('branch'));
runPageServiceContract('a branch of a timeline elsewhere', () => fixture('remote'));
