/**
 * An ObjectStore in an S3 bucket: an object is one at `<prefix>/<key>`. AWS, or any server that speaks the same (AWS_ENDPOINT_URL), which must know
 * `If-None-Match: *`: without it two pageservers could claim one generation.
 *
 * Credentials, region and endpoint come from where the AWS SDK looks for them: environment, profile, instance. The SDK is loaded when a bucket is opened, so
 * that a process without one does not pay for it.
 *
 *   <prefix>/access-check, <prefix>/access-check-swap    objects that are tried out: there for a moment, or after a kill until the next try
 *
 * Invariants:
 * - a conditional put is sent once: were its answer lost, the next attempt would meet its own object and take it for somebody else's
 * - a request ends: by its answer, by an error, or by a timeout, which cuts it. What the server had of it by then it may do all the same, later
 * - whatever is wrong with bucket, network or credentials is `unavailable` and names object, bucket and endpoint; secrets are in no message
 */
import type { GetObjectCommandOutput, S3Client } from '@aws-sdk/client-s3';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { s3AttemptsMax, s3ConnectTimeoutMs, s3RequestTimeoutMs } from '../../engine/limits.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { checkObjectKey } from '../../engine/stores/memory.ts';

export interface S3Location {
  readonly bucket: string;
  /** '' or ending in a slash. */
  readonly prefix: string;
}

/** Milliseconds. */
export interface S3Timeouts {
  readonly connectMs: number;
  /** Until it answers, or sends more. */
  readonly requestMs: number;
}

type Sdk = typeof import('@aws-sdk/client-s3');
type S3Condition = { readonly IfNoneMatch?: '*'; readonly IfMatch?: string };
/** With the ETag in its quotes, as AWS has it; without them, as older Ceph; or not at all. */
type IfMatch = 'quoted' | 'bare' | 'unknown';

const accessCheckKey = 'access-check';
const swapCheckKey = 'access-check-swap';
/** Others that try the same at the same moment are in the way of it. */
const probeAttempts = 4;
/** Of no object. */
const noETag = `"${'0'.repeat(32)}"`;

export class S3ObjectStore implements ObjectStore {
  readonly #sdk: Sdk;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #client: S3Client;
  /** Sends each request once. */
  readonly #once: S3Client;
  readonly #where: string;
  readonly #timeouts: S3Timeouts;
  #ifMatch: Promise<IfMatch> | null = null;

  private constructor(sdk: Sdk, { bucket, prefix }: S3Location, env: NodeJS.ProcessEnv, timeouts: S3Timeouts) {
    this.#timeouts = timeouts;
    this.#sdk = sdk;
    this.#bucket = bucket;
    this.#prefix = prefix;
    const endpoint = env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL;
    const config = {
      // The SDK has no default; servers other than AWS take any.
      region: env.AWS_REGION || env.AWS_DEFAULT_REGION || 'us-east-1',
      ...(endpoint && { endpoint, forcePathStyle: true }),
      // Other servers do not know the checksums that the SDK would add by default; TLS and our own CRC32Cs see to it.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      requestHandler: {
        connectionTimeout: timeouts.connectMs,
        requestTimeout: timeouts.requestMs,
        throwOnRequestTimeout: true,
        socketTimeout: timeouts.requestMs,
      },
    } as const;
    this.#client = new sdk.S3Client({ ...config, maxAttempts: s3AttemptsMax });
    this.#once = new sdk.S3Client({ ...config, maxAttempts: 1 });
    this.#where = `bucket ${bucket} at ${endpoint ?? 'AWS'}`;
  }

  static async open(
    location: S3Location,
    env: NodeJS.ProcessEnv = process.env,
    timeouts: S3Timeouts = { connectMs: s3ConnectTimeoutMs, requestMs: s3RequestTimeoutMs },
  ): Promise<S3ObjectStore> {
    // Which Node is supported is this program's to say.
    process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
    return new S3ObjectStore(await import('@aws-sdk/client-s3'), location, env, timeouts);
  }

  /**
   * Whether the bucket is there, can be listed and written, and has a server that knows `If-None-Match`. Throws `unavailable`, saying what is wrong;
   * `invalid` for a server that cannot be used.
   */
  async checkAccess(): Promise<void> {
    await this.listFolders('');
    for (let attempt = 0; attempt < probeAttempts; attempt++) {
      await this.#putIf(accessCheckKey, {});
      if ((await this.#tryPut(accessCheckKey, { IfNoneMatch: '*' })) === 'refused') {
        await this.delete(accessCheckKey);
        return;
      }
      // Another pageserver that tries the same has removed it in between; or nobody has.
    }
    await this.delete(accessCheckKey);
    throw new PageliteError(
      'invalid',
      `${this.#where} cannot be used: its server takes no notice of If-None-Match, so that two pageservers could have one tenant`,
      { bucket: this.#bucket },
    );
  }

  /** How this server takes If-Match, found out when it is first needed. */
  #howToSwap(): Promise<IfMatch> {
    this.#ifMatch ??= this.#probeIfMatch().catch((error) => {
      this.#ifMatch = null;
      throw error;
    });
    return this.#ifMatch;
  }

  async #probeIfMatch(): Promise<IfMatch> {
    for (let attempt = 0; attempt < probeAttempts; attempt++) {
      const etag = await this.#putIf(swapCheckKey, {});
      for (const how of ['quoted', 'bare'] as const) {
        if ((await this.#tryPut(swapCheckKey, { IfMatch: ifMatch(etag, how) })) === 'refused') continue;
        const other = await this.#tryPut(swapCheckKey, { IfMatch: ifMatch(noETag, how) });
        await this.delete(swapCheckKey);
        return other === 'refused' ? how : 'unknown';
      }
      // It was refused whatever was said: another pageserver, which tries the same, has removed it in between.
    }
    await this.delete(swapCheckKey);
    return 'unknown';
  }

  async #tryPut(key: string, condition: S3Condition): Promise<'done' | 'refused'> {
    try {
      await this.#putIf(key, condition);
      return 'done';
    } catch (error) {
      const status = (error as PageliteError).data?.status;
      // Some say that they do not know the header.
      const isUnknown = condition.IfMatch !== undefined && (status === 400 || status === 501);
      if (isConflict(error) || isUnknown || (status === 404 && !isBucketError(error))) return 'refused';
      throw error;
    }
  }

  /** A byte that stands for nothing. Returns its ETag. */
  async #putIf(key: string, condition: S3Condition): Promise<string> {
    return this.#send(key, new Uint8Array(1), condition);
  }

  async put(key: string, bytes: Uint8Array, condition?: { ifAbsent: true } | { ifVersion: string }): Promise<string> {
    checkObjectKey(key);
    if (condition === undefined) return this.#send(key, bytes, {});
    if ('ifAbsent' in condition) {
      try {
        return await this.#send(key, bytes, { IfNoneMatch: '*' });
      } catch (error) {
        if (!isConflict(error)) throw error;
        throw new PageliteError('invalid', `object ${key} exists`, { file: key });
      }
    }
    const how = await this.#howToSwap();
    const changed = () => new PageliteError('fenced', `object ${key} was changed by somebody else`, { file: key });
    if (how === 'unknown') {
      if ((await this.head(key))?.version !== condition.ifVersion) throw changed();
      return this.#send(key, bytes, {});
    }
    try {
      return await this.#send(key, bytes, { IfMatch: ifMatch(condition.ifVersion, how) });
    } catch (error) {
      const isGone = (error as PageliteError).data?.status === 404 && !isBucketError(error);
      if (!isConflict(error) && !isGone) throw error;
      throw changed();
    }
  }

  /** Without a condition it is tried again until it has failed often enough. */
  async #send(key: string, bytes: Uint8Array, condition: S3Condition): Promise<string> {
    const command = new this.#sdk.PutObjectCommand({
      ...this.#at(key),
      Body: bytes,
      ContentLength: bytes.length,
      ...condition,
    });
    const client = Object.keys(condition).length === 0 ? this.#client : this.#once;
    const { ETag } = await this.#request(key, (abortSignal) => client.send(command, { abortSignal }));
    return versionOf(ETag);
  }

  async get(
    key: string,
    range?: { start: number; end: number },
  ): Promise<{ bytes: Uint8Array; version: string } | null> {
    checkObjectKey(key);
    if (range !== undefined && range.end <= range.start) return this.#getNothing(key);
    const command = new this.#sdk.GetObjectCommand({
      ...this.#at(key),
      ...(range && { Range: `bytes=${range.start}-${range.end - 1}` }),
    });
    let lastError: unknown;
    // A body may be cut off after the answer has begun, where the SDK does not try again.
    for (let attempt = 0; attempt < s3AttemptsMax; attempt++) {
      let answer: GetObjectCommandOutput;
      try {
        answer = await this.#request(key, (abortSignal) => this.#client.send(command, { abortSignal }));
      } catch (error) {
        const status = (error as PageliteError).data?.status;
        if (status === 404 && !isBucketError(error)) return null;
        if (status === 416) return this.#getNothing(key);
        throw error;
      }
      try {
        const body = answer.Body as { destroy?: () => void };
        const bytes = await this.#inTime(answer.Body!.transformToByteArray(), () => body.destroy?.());
        if (bytes.length !== (lengthOf(answer, range) ?? bytes.length)) throw new Error('cut short');
        return { bytes, version: versionOf(answer.ETag) };
      } catch (error) {
        (answer.Body as { destroy?: () => void }).destroy?.();
        lastError = error;
      }
    }
    throw this.#unavailable(key, lastError);
  }

  async #getNothing(key: string): Promise<{ bytes: Uint8Array; version: string } | null> {
    const found = await this.head(key);
    return found && { bytes: new Uint8Array(0), version: found.version };
  }

  async head(key: string): Promise<{ size: number; version: string } | null> {
    checkObjectKey(key);
    try {
      const command = new this.#sdk.HeadObjectCommand(this.#at(key));
      const found = await this.#request(key, (abortSignal) => this.#client.send(command, { abortSignal }));
      return { size: found.ContentLength ?? 0, version: versionOf(found.ETag) };
    } catch (error) {
      // Its answer has no body that would tell a missing bucket from a missing object.
      if ((error as PageliteError).data?.status === 404) {
        await this.#checkBucket(key);
        return null;
      }
      throw error;
    }
  }

  async list(prefix: string): Promise<{ key: string; size: number }[]> {
    const found: { key: string; size: number }[] = [];
    let token: string | undefined;
    do {
      const page = await this.#listPage(prefix, token, false);
      for (const { Key, Size } of page.Contents ?? []) {
        found.push({ key: Key!.slice(this.#prefix.length), size: Size ?? 0 });
      }
      token = page.IsTruncated ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
    // S3 sorts by UTF-8, which is what our keys are.
    return found.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  async listFolders(folder: string): Promise<string[]> {
    const names: string[] = [];
    let token: string | undefined;
    do {
      const page = await this.#listPage(folder, token, true);
      for (const { Prefix } of page.CommonPrefixes ?? []) {
        names.push(Prefix!.slice(this.#prefix.length + folder.length, -1));
      }
      token = page.IsTruncated ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
    return names.sort();
  }

  async delete(key: string): Promise<void> {
    checkObjectKey(key);
    const command = new this.#sdk.DeleteObjectCommand(this.#at(key));
    await this.#request(key, (abortSignal) => this.#client.send(command, { abortSignal }));
  }

  #at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: this.#prefix + key };
  }

  #listPage(prefix: string, token: string | undefined, byFolder: boolean) {
    const command = new this.#sdk.ListObjectsV2Command({
      Bucket: this.#bucket,
      Prefix: this.#prefix + prefix,
      ...(byFolder && { Delimiter: '/' }),
      ...(token !== undefined && { ContinuationToken: token }),
    });
    return this.#request(prefix, (abortSignal) => this.#client.send(command, { abortSignal }));
  }

  async #checkBucket(key: string): Promise<void> {
    const command = new this.#sdk.ListObjectsV2Command({ Bucket: this.#bucket, Prefix: this.#prefix, MaxKeys: 1 });
    await this.#request(key, (abortSignal) => this.#client.send(command, { abortSignal }));
  }

  async #request<Output>(key: string, send: (signal: AbortSignal) => Promise<Output>): Promise<Output> {
    const given = new AbortController();
    try {
      return await this.#inTime(send(given.signal), () => given.abort());
    } catch (error) {
      throw this.#unavailable(key, error);
    }
  }

  /** The SDK's own timeouts begin anew with every packet; this one does not. `giveUp` cuts what is under way. */
  #inTime<T>(work: Promise<T>, giveUp: () => void): Promise<T> {
    let timer: NodeJS.Timeout;
    const timeout = new Promise<never>((_, reject) => {
      const end = () => {
        reject(Object.assign(new Error('no answer in time'), { name: 'TimeoutError' }));
        giveUp();
      };
      timer = setTimeout(end, this.#timeouts.requestMs * s3AttemptsMax);
    });
    // What the cut makes of it is nobody's to hear.
    work.catch(() => {});
    return Promise.race([work, timeout]).finally(() => clearTimeout(timer));
  }

  #unavailable(key: string, cause: unknown): PageliteError {
    const { name = '', $metadata } = (cause ?? {}) as { name?: string; $metadata?: { httpStatusCode?: number } };
    const status = $metadata?.httpStatusCode;
    const what = key === '' ? this.#where : `object ${key} in ${this.#where}`;
    const data = { file: key, bucket: this.#bucket, s3Error: name, ...(status !== undefined && { status }) };
    return new PageliteError('unavailable', `${what}: ${reasonOf(name, status, cause)}`, data, { cause });
  }
}

/** 409: others are putting the same key at this moment, and one of them wins. */
const isConflict = (error: unknown): boolean => [409, 412].includes((error as PageliteError).data?.status as number);

const ifMatch = (etag: string, how: 'quoted' | 'bare'): string => (how === 'quoted' ? etag : etag.replaceAll('"', ''));

const isBucketError = (error: unknown): boolean => (error as PageliteError).data?.s3Error === 'NoSuchBucket';

/** What to do about it. */
function reasonOf(name: string, status: number | undefined, cause: unknown): string {
  switch (name) {
    case 'NoSuchBucket':
      return 'the bucket does not exist';
    case 'InvalidAccessKeyId':
    case 'SignatureDoesNotMatch':
      return 'the credentials are not accepted: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY';
    case 'CredentialsProviderError':
      return 'there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE';
    case 'AccessDenied':
      return 'access is denied: the credentials may not do this';
    case 'TimeoutError':
      return 'no answer in time';
    default: {
      const text = messageOf(cause) || name;
      const code = (cause as { code?: string } | null)?.code;
      return [status, code, text].filter((part) => part !== undefined && part !== '').join(' ');
    }
  }
}

/** Bytes that an answer is to have, by what it says of itself and of the whole object; null if it does not. */
function lengthOf(
  { ContentLength, ContentRange }: GetObjectCommandOutput,
  range: { readonly start: number; readonly end: number } | undefined,
): number | null {
  const size = Number(/\/(\d+)$/.exec(ContentRange ?? '')?.[1] ?? Number.NaN);
  if (range !== undefined && !Number.isNaN(size)) return Math.min(range.end, size) - range.start;
  return ContentLength ?? null;
}

const versionOf = (etag: string | undefined): string => etag ?? '';
