"""Paths of inference."""

from django.urls import path

from inference.api.batches import BatchCancel, Batches, OneBatch
from inference.api.cache import Cache
from inference.api.chat import ChatCompletions
from inference.api.completions import Completions
from inference.api.embeddings import Embeddings, PlainEmbeddings, Similarity
from inference.api.estimates import Estimates
from inference.api.files import FileContent, Files, OneFile
from inference.api.infer import Infer, InferStream
from inference.api.infer_batch import InferBatch, InferBatchCancel, OneInferBatch
from inference.api.jobs import JobCancel, OneJob
from inference.api.models import Catalog, ModelInfo, Models, OneModel
from inference.api.moderations import Moderations
from inference.api.requests import OneRequest, RequestCancel, RequestStream
from inference.api.responses import OneResponse, ResponseCancel, ResponseItems, Responses
from inference.api.v2 import (
    EnvelopedModel,
    EnvelopedModels,
    JobCancelled,
    JobsOfPrompts,
    JobStream,
    OneJobWithResult,
)

openai = [
    path("chat/completions", ChatCompletions.as_view()),
    path("completions", Completions.as_view()),
    path("responses", Responses.as_view()),
    path("responses/<str:name>", OneResponse.as_view()),
    path("responses/<str:name>/cancel", ResponseCancel.as_view()),
    path("responses/<str:name>/input_items", ResponseItems.as_view()),
    path("moderations", Moderations.as_view()),
    path("embeddings", Embeddings.as_view()),
    path("files", Files.as_view()),
    path("files/<str:name>", OneFile.as_view()),
    path("files/<str:name>/content", FileContent.as_view()),
    path("batches", Batches.as_view()),
    path("batches/<str:name>", OneBatch.as_view()),
    path("batches/<str:name>/cancel", BatchCancel.as_view()),
    path("models", Models.as_view()),
    path("models/<str:name>", OneModel.as_view()),
]
api = [
    path("infer", Infer.as_view()),
    path("infer/stream", InferStream.as_view()),
    path("infer/batch", InferBatch.as_view()),
    path("infer/batch/<str:name>", OneInferBatch.as_view()),
    path("infer/batch/<str:name>/cancel", InferBatchCancel.as_view()),
    path("embeddings", PlainEmbeddings.as_view()),
    path("similarity", Similarity.as_view()),
    path("estimates", Estimates.as_view()),
    path("cache", Cache.as_view()),
    path("models", Catalog.as_view()),
    path("model/info", ModelInfo.as_view()),
    path("jobs/<uuid:identifier>", OneJob.as_view()),
    path("jobs/<uuid:identifier>/cancel", JobCancel.as_view()),
    path("requests/<uuid:identifier>", OneRequest.as_view()),
    path("requests/<uuid:identifier>/stream", RequestStream.as_view()),
    path("requests/<uuid:identifier>/cancel", RequestCancel.as_view()),
]
v2 = [
    path("infer", JobsOfPrompts.as_view()),
    path("jobs/<uuid:identifier>", OneJobWithResult.as_view()),
    path("jobs/<uuid:identifier>/cancel", JobCancelled.as_view()),
    path("jobs/<uuid:identifier>/stream", JobStream.as_view()),
    path("models", EnvelopedModels.as_view()),
    path("models/<str:name>", EnvelopedModel.as_view()),
]
