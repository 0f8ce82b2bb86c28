/**
 * The tenant template of this build, kept as an object in the tab's store: made by initdb in this tab (5 seconds, once), or brought by the host.
 */
import {
  createTenantTemplate,
  decodeTemplate,
  encodeTemplate,
  templateVersion,
} from '../../engine/basebackup/tenant-template.ts';
import { isPageliteError, messageOf } from '../../engine/errors.ts';
import type { Log, ObjectStore, TenantTemplate } from '../../engine/services.ts';
import type { Progress } from '../api.ts';

/** Version of @electric-sql/pglite, tests/tidy-browser.test.ts compares it with what is installed. */
export const pgliteVersion = '0.5.16';
export const templateKey = `template-${pgliteVersion}-${templateVersion}.bin`;

/** PGlite's own files where the host has loaded them already. */
export type LoadArtefacts = () => Promise<NonNullable<Parameters<typeof createTenantTemplate>[0]>>;

export interface TemplateSource {
  readonly store: ObjectStore;
  readonly artefacts: LoadArtefacts | undefined;
  /** The encoded template from elsewhere, null if there is none: then initdb makes it. */
  readonly fetchTemplate?: (() => Promise<Uint8Array | null>) | undefined;
  readonly log: Log;
  readonly progress: (progress: Progress) => void;
}

export async function loadTabTemplate(source: TemplateSource): Promise<TenantTemplate> {
  return (await stored(source)) ?? (await fetched(source)) ?? made(source);
}

async function stored({ store, log }: TemplateSource): Promise<TenantTemplate | null> {
  try {
    const found = await store.get(templateKey);
    return found && decodeTemplate(found.bytes);
  } catch (error) {
    if (!isPageliteError(error, 'corrupt') && !isPageliteError(error, 'invalid')) throw error;
    log.warn('the stored template is damaged and is made again', { error: messageOf(error) });
    return null;
  }
}

async function fetched({ store, fetchTemplate, log }: TemplateSource): Promise<TenantTemplate | null> {
  try {
    const bytes = (await fetchTemplate?.()) ?? null;
    if (bytes === null) return null;
    const template = decodeTemplate(bytes);
    await store.put(templateKey, bytes);
    return template;
  } catch (error) {
    log.warn('the template cannot be fetched and is made here', { error: messageOf(error) });
    return null;
  }
}

async function made({ store, artefacts, progress }: TemplateSource): Promise<TenantTemplate> {
  progress({ text: 'Making the template of new databases with initdb (once)' });
  const template = await createTenantTemplate((await artefacts?.()) ?? {});
  await store.put(templateKey, encodeTemplate(template));
  return template;
}
